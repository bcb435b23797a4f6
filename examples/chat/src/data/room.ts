// The open conversation: its messages, newest page first, older ones on demand, live ones as they come.

import Parse from 'parse';
import { Collection } from './collection';
import { type Message, myId, reference, toMessage } from './model';
import { TypingNotice, TypingPeople } from './typing';

const pageSize = 30;

/** A message on its way to the server. */
export interface Draft {
  text: string;
}

export class Room {
  /** My messages that the server has not answered yet, shown after the others. */
  readonly outbox = new Set<Draft>();
  readonly typingNotice: TypingNotice;
  readonly typingPeople: TypingPeople;

  #left = new AbortController();
  #changed: () => void;
  #conversation: Parse.Object;
  #messages: Collection<Message>;
  /** Live messages of mine that may be the answer to a draft: shown when the outbox is empty. */
  #held: Message[] = [];
  #loadingOlder = false;

  constructor(readonly conversationId: string, changed: () => void, failed: (error: unknown) => void) {
    this.#changed = () => this.#left.signal.aborted || changed();
    this.#conversation = reference('Conversation', conversationId);
    this.typingNotice = new TypingNotice(this.#conversation);
    this.typingPeople = new TypingPeople(this.#conversation, this.#left.signal, this.#changed);
    this.#messages = new Collection({
      live: this.#query(),
      stored: this.#newestFirst(),
      limit: held => Math.max(pageSize, held),
      read: toMessage,
      arrived: message => this.#hear(message),
      changed: this.#changed,
      failed,
      signal: this.#left.signal,
    });
  }

  async enter(): Promise<void> {
    await Promise.all([this.#messages.open(), this.typingPeople.follow()]);
  }

  leave(): void {
    this.#left.abort();
    this.typingNotice.stopped();
  }

  get hasOlder(): boolean {
    return this.#messages.hasMore;
  }

  /** Oldest first, as one reads. */
  get messages(): Message[] {
    const byTime = (a: Message, b: Message) => a.sentAt.getTime() - b.sentAt.getTime() || (a.id < b.id ? -1 : 1);
    return [...this.#messages.items.values()].sort(byTime);
  }

  async loadOlder(): Promise<void> {
    const oldest = this.messages[0];
    if (this.#loadingOlder || !this.hasOlder || !oldest) return;
    this.#loadingOlder = true;
    const messages = this.#messages;
    const { generation } = messages;
    const known = messages.items.size;
    try {
      // Including the oldest moment we know: several messages may share it.
      const query = this.#newestFirst().lessThanOrEqualTo('createdAt', oldest.sentAt).limit(pageSize + 1);
      const page = (await query.find()).map(toMessage);
      if (generation !== messages.generation) return;
      messages.put(...page);
      messages.hasMore = page.length > pageSize && messages.items.size > known;
      this.#changed();
    } finally {
      this.#loadingOlder = false;
    }
  }

  async send(text: string): Promise<void> {
    const draft = { text };
    this.outbox.add(draft);
    this.#changed();
    this.typingNotice.stopped();
    const object = new Parse.Object('Message', { conversation: this.#conversation, text });
    try {
      this.#messages.put(toMessage(await object.save()));
    } finally {
      this.outbox.delete(draft);
      if (this.outbox.size === 0) this.#messages.put(...this.#held.splice(0));
      this.#changed();
    }
  }

  /** The live event may overtake the answer to the save: then the draft is still there to stand for it. */
  #hear(message: Message): void {
    if (message.senderId === myId() && this.outbox.size > 0) this.#held.push(message);
    else this.#messages.put(message);
  }

  #query(): Parse.Query {
    return new Parse.Query('Message').equalTo('conversation', this.#conversation);
  }

  #newestFirst(): Parse.Query {
    return this.#query().descending('createdAt');
  }
}
