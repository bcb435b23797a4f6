// Who is typing: telling the others, and hearing it from them. A courtesy: its failures are silent.

import Parse from 'parse';
import { follow } from './follow';
import { me, myId } from './model';

/** How often "still typing" is repeated. */
const repeatAfter = 3_000;
/** A pause this long means that I stopped. */
const pauseAfter = 5_000;
/** Without a repetition for this long, the other side has gone without saying so. */
const forgottenAfter = 8_000;

/** My own typing, in one object per conversation that is used again and again. */
export class TypingNotice {
  #saidAt = 0;
  #pause: number | undefined;
  #status: Parse.Object | undefined;
  /** Saves wait for each other, so that there is one object and the last word is the last one said. */
  #saving: Promise<unknown> = Promise.resolve();

  constructor(readonly conversation: Parse.Object) {}

  typed(): void {
    clearTimeout(this.#pause);
    this.#pause = window.setTimeout(() => this.stopped(), pauseAfter);
    if (Date.now() - this.#saidAt < repeatAfter) return;
    this.#saidAt = Date.now();
    this.#say(true);
  }

  stopped(): void {
    clearTimeout(this.#pause);
    if (this.#saidAt === 0) return;
    this.#saidAt = 0;
    this.#say(false);
  }

  #say(isTyping: boolean): void {
    const save = async () => {
      this.#status ??= await this.#findOrNew();
      await this.#status.save({ isTyping });
    };
    this.#saving = this.#saving.then(save).catch(() => {});
  }

  async #findOrNew(): Promise<Parse.Object> {
    const query = new Parse.Query('TypingStatus').equalTo('conversation', this.conversation).equalTo('user', me());
    return (await query.first()) ?? new Parse.Object('TypingStatus', { conversation: this.conversation });
  }
}

/** The others' typing. */
export class TypingPeople {
  /** Each with the timer that ends it. */
  #typing = new Map<string, number>();

  constructor(
    readonly conversation: Parse.Object,
    readonly signal: AbortSignal,
    readonly changed: () => void,
  ) {}

  get ids(): string[] {
    return [...this.#typing.keys()];
  }

  /** Whoever is typing says so again soon: there is nothing to fetch. */
  follow(): Promise<void> {
    const query = new Parse.Query('TypingStatus').equalTo('conversation', this.conversation);
    return follow(query, this.signal, {
      changed: status => this.#set(status.get('user')?.id, status.get('isTyping') === true),
      gone: status => this.#set(status.get('user')?.id, false),
      interrupted: () => {},
    });
  }

  #set(id: string | undefined, isTyping: boolean): void {
    if (!id || id === myId()) return;
    clearTimeout(this.#typing.get(id));
    if (isTyping) this.#typing.set(id, window.setTimeout(() => this.#set(id, false), forgottenAfter));
    else this.#typing.delete(id);
    this.changed();
  }
}
