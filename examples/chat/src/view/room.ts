// The open conversation: messages, who is typing, and the place to write.

import { type Message, myId } from '../data/model';
import type { People } from '../data/people';
import { Room } from '../data/room';
import { avatar, element, showList } from './dom';
import { dayOf, listOf, timeOf } from './format';
import { report } from './notice';

/** As long as this much of the end is in sight, new messages scroll into view. */
const nearEnd = 80;
/** Messages of one person within this time stand together. */
const togetherFor = 5 * 60_000;

/** One line of the log: everything that is drawn, so that what looks the same can stay. */
interface Line {
  id: string;
  text: string;
  time: string;
  /** Set where another day starts. */
  day: string | undefined;
  /** Set where somebody else starts to speak. */
  sender: string | undefined;
  mine: boolean;
  onItsWay: boolean;
}

export class RoomView {
  readonly element: HTMLElement;
  #room: Room;
  #title = element('h2', { testId: 'room-title' });
  #participants = element('span', { class: 'participants' });
  #older = element('button', {
    class: 'older', testId: 'older', hidden: true, on: { click: () => this.#loadOlder() },
  }, 'Earlier messages');
  #lines = element('ol', { testId: 'messages' });
  #log = element('div', { class: 'log', role: 'log', tabindex: 0, 'aria-label': 'Messages', on: { scroll: () => this.#scrolled() } },
    this.#older, this.#lines);
  #typing = element('p', { class: 'typing', role: 'status', testId: 'typing' });
  #text = element('textarea', {
    testId: 'text', rows: 1, maxlength: 4000, placeholder: 'Write a message', 'aria-label': 'Message',
    on: { input: () => this.#typed(), keydown: event => this.#key(event), blur: () => this.#room.typingNotice.stopped() },
  });
  #people: People;

  constructor(readonly conversationId: string, people: People) {
    this.#people = people;
    this.#room = new Room(conversationId, () => this.#show(), report);
    const submit = (event: Event) => {
      event.preventDefault();
      this.#send();
    };
    this.element = element('section', { class: 'room', 'aria-label': 'Conversation' },
      element('header', {},
        element('a', { class: 'back', href: '#', 'aria-label': 'Back to the list' }, '‹'),
        element('div', {}, this.#title, this.#participants),
      ),
      this.#log,
      this.#typing,
      element('form', { class: 'composer', on: { submit } },
        this.#text,
        element('button', { class: 'primary', testId: 'send' }, 'Send')),
    );
  }

  async enter(): Promise<void> {
    this.#text.focus();
    await this.#room.enter();
    this.#toEnd();
  }

  leave(): void {
    this.#room.leave();
  }

  showTitle(title: string, participants: number): void {
    this.#title.textContent = title;
    this.#participants.textContent = participants > 2 ? `${participants} people` : '';
    this.#show(); // names may have become known
  }

  #show(): void {
    const { messages, outbox, hasOlder, typingPeople } = this.#room;
    const atEnd = this.#isAtEnd;
    const lines = messages.map((message, i) => this.#line(message, messages[i - 1]));
    let draftNumber = 0;
    for (const { text } of outbox) {
      const id = `draft ${++draftNumber}`;
      lines.push({ id, text, time: 'Sending…', day: undefined, sender: undefined, mine: true, onItsWay: true });
    }
    showList(this.#lines, lines, drawLine);
    this.#older.hidden = !hasOlder;

    const typing = typingPeople.ids.map(id => this.#people.name(id));
    this.#typing.textContent = typing.length === 0 ? ''
      : typing.length > 3 ? 'Several people are typing…'
      : `${listOf(typing)} ${typing.length === 1 ? 'is' : 'are'} typing…`;

    if (atEnd) this.#toEnd();
  }

  #line(message: Message, previous: Message | undefined): Line {
    const { id, text, hasAttachment, sentAt, senderId } = message;
    const mine = senderId === myId();
    const isNewDay = previous?.sentAt.toDateString() !== sentAt.toDateString();
    const goesOn = !isNewDay && previous?.senderId === senderId
      && sentAt.getTime() - previous.sentAt.getTime() < togetherFor;
    return {
      id,
      text: text || (hasAttachment ? '📎 Attachment' : ''),
      time: timeOf(sentAt),
      day: isNewDay ? dayOf(sentAt) : undefined,
      sender: mine || goesOn ? undefined : this.#people.name(senderId),
      mine,
      onItsWay: false,
    };
  }

  #send(): void {
    const text = this.#text.value.trim();
    if (!text) return;
    this.#text.value = '';
    this.#fit();
    this.#room.send(text).catch(error => {
      report(error);
      // Nothing that was written gets lost.
      this.#text.value = this.#text.value ? `${text}\n${this.#text.value}` : text;
      this.#fit();
    });
    this.#toEnd();
  }

  #key(event: KeyboardEvent): void {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #typed(): void {
    this.#fit();
    if (this.#text.value.trim()) this.#room.typingNotice.typed();
    else this.#room.typingNotice.stopped();
  }

  /** The field grows with its text, up to the height that the style allows; the end of the log stays in sight. */
  #fit(): void {
    const atEnd = this.#isAtEnd;
    this.#text.style.height = 'auto';
    this.#text.style.height = `${this.#text.scrollHeight + 2}px`;
    if (atEnd) this.#toEnd();
  }

  #scrolled(): void {
    if (this.#log.scrollTop < 40 && this.#room.hasOlder) this.#loadOlder();
  }

  /** Older messages are put above; what is in sight stays where it is. */
  #loadOlder(): void {
    const fromEnd = this.#log.scrollHeight - this.#log.scrollTop;
    this.#room.loadOlder()
      .then(() => { this.#log.scrollTop = this.#log.scrollHeight - fromEnd; })
      .catch(report);
  }

  get #isAtEnd(): boolean {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < nearEnd;
  }

  #toEnd(): void {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}

function drawLine({ id, text, time, day, sender, mine, onItsWay }: Line): HTMLElement {
  const kind = [mine && 'mine', onItsWay && 'on-its-way', sender && 'first'].filter(Boolean).join(' ');
  return element('li', { class: kind, testId: 'message', 'data-id': id },
    day !== undefined && element('p', { class: 'day' }, day),
    sender !== undefined && element('p', { class: 'sender' }, avatar(sender), sender),
    element('div', { class: 'bubble' }, element('p', { testId: 'message-text' }, text), element('span', { class: 'time' }, time)),
  );
}
