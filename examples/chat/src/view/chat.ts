// The page once somebody is logged in: conversations at the left, the open one at the right.

import { connection } from '../data/connection';
import { Conversations } from '../data/conversations';
import { type Conversation, me, myId } from '../data/model';
import { People } from '../data/people';
import { logOut } from '../data/session';
import { showConversations } from './conversation-list';
import { avatar, element } from './dom';
import { listOf } from './format';
import { askForPeople } from './new-conversation';
import { report } from './notice';
import { RoomView } from './room';

const statusTexts = { connecting: 'Connecting…', online: 'Online', reconnecting: 'Reconnecting…' };

export async function showChat(page: HTMLElement): Promise<void> {
  const people = new People();
  const conversations = new Conversations(() => refresh(), report);
  const unread = new Set<string>();
  const lastSeen = new Map<string, number>();
  let room: RoomView | undefined;

  const name: string = me().get('username');
  const status = element('p', { class: 'status', role: 'status', testId: 'status' });
  const list = element('ul', { class: 'conversations', testId: 'conversations', 'aria-label': 'Conversations' });
  const place = element('main', { class: 'place' });
  const chat = element('div', { class: 'chat' },
    element('aside', {},
      element('header', {},
        avatar(name),
        element('div', { class: 'self' }, element('strong', { testId: 'self' }, name), status),
        element('button', { testId: 'log-out', on: { click: () => void logOut() } }, 'Log out'),
      ),
      element('button', { class: 'primary new', testId: 'new-conversation', on: { click: () => void start().catch(report) } }, 'New conversation'),
      list,
    ),
    place,
  );
  page.replaceChildren(chat);
  connection.onChange(now => {
    status.textContent = statusTexts[now];
    status.dataset.status = now;
  });

  const titleOf = ({ title, participants }: Conversation): string => {
    const others = participants.filter(id => id !== myId()).map(id => people.name(id)).sort();
    return title ?? (listOf(others) || 'Just me');
  };

  function refresh(): void {
    const { sorted } = conversations;
    for (const { id, activeAt } of sorted) {
      const seen = lastSeen.get(id);
      if (seen !== undefined && activeAt.getTime() > seen && id !== room?.conversationId) unread.add(id);
      lastSeen.set(id, activeAt.getTime());
    }
    showConversations(list, sorted, { titleOf, isOpen: id => id === room?.conversationId, isUnread: id => unread.has(id) });
    const open = room && conversations.get(room.conversationId);
    if (open) room?.showTitle(titleOf(open), open.participants.length);
    else if (room) location.hash = ''; // I am no longer part of it

    const everybody = sorted.flatMap(({ participants }) => participants);
    people.learn(everybody).then(isNews => isNews && refresh()).catch(report);
  }

  async function start(): Promise<void> {
    const chosen = await askForPeople(people);
    if (!chosen) return;
    const conversation = await conversations.startWith(chosen.ids, chosen.title);
    location.hash = conversation.id;
  }

  /** The open conversation is in the address, so that it outlives a reload and "back" works. */
  function follow(): void {
    const id = location.hash.slice(1);
    if (id === (room?.conversationId ?? '')) return;
    room?.leave();
    room = id && conversations.get(id) ? new RoomView(id, people) : undefined;
    unread.delete(id);
    chat.classList.toggle('in-room', room !== undefined);
    place.replaceChildren(room?.element ?? emptyPlace());
    room?.enter().catch(report);
    refresh();
  }

  window.addEventListener('hashchange', follow);
  place.replaceChildren(emptyPlace());
  await conversations.open();
  follow();
}

function emptyPlace(): HTMLElement {
  return element('p', { class: 'empty' }, 'Choose a conversation, or start a new one.');
}
