// The list at the left.

import type { Conversation } from '../data/model';
import { avatar, element, showList } from './dom';
import { briefly } from './format';

interface Look {
  titleOf: (conversation: Conversation) => string;
  isOpen: (id: string) => boolean;
  isUnread: (id: string) => boolean;
}

export function showConversations(list: Element, conversations: Conversation[], { titleOf, isOpen, isUnread }: Look): void {
  showList(
    list,
    conversations.map(conversation => ({
      id: conversation.id,
      title: titleOf(conversation),
      lastMessage: conversation.lastMessage ?? 'No messages yet',
      time: briefly(conversation.activeAt),
      open: isOpen(conversation.id),
      unread: isUnread(conversation.id),
    })),
    ({ id, title, lastMessage, time, open, unread }) =>
      element('li', { testId: 'conversation', 'data-title': title, 'data-unread': unread },
        element('a', { href: `#${id}`, 'aria-current': open ? 'page' : undefined },
          avatar(title),
          element('span', { class: 'title' }, title, unread && element('span', { class: 'unread' }, ' (new)')),
          element('time', {}, time),
          element('span', { class: 'last', testId: 'last-message' }, lastMessage),
        )),
  );
}
