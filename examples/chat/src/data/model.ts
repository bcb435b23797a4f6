// The chat's own records. The rest of the page knows these, not the SDK's objects.

import Parse from 'parse';

export interface Person {
  id: string;
  name: string;
}

export interface Conversation {
  id: string;
  participants: string[];
  title: string | undefined;
  lastMessage: string | undefined;
  /** When it was last written to, or started. */
  activeAt: Date;
  updatedAt: Date;
}

export interface Message {
  id: string;
  senderId: string;
  text: string;
  hasAttachment: boolean;
  sentAt: Date;
  updatedAt: Date;
}

let user: Parse.User | null = null;

/** Who is logged in. Asked for once: the page starts over when somebody logs out. */
export function me(): Parse.User {
  user ??= Parse.User.current();
  if (!user) throw new Error('nobody is logged in');
  return user;
}

export function myId(): string {
  return me().id!;
}

/** An object of which only the id is known, for pointing at it. */
export function reference(className: string, id: string): Parse.Object {
  const object = new Parse.Object(className);
  object.id = id;
  return object;
}

export function toPerson(user: Parse.Object): Person {
  return { id: user.id!, name: user.get('username') ?? 'somebody' };
}

export function toConversation(object: Parse.Object): Conversation {
  const participants: Parse.Object[] = object.get('participants') ?? [];
  return {
    id: object.id!,
    participants: participants.map(user => user.id!),
    title: object.get('title'),
    lastMessage: object.get('lastMessage'),
    activeAt: object.get('lastMessageAt') ?? object.createdAt!,
    updatedAt: object.updatedAt!,
  };
}

export function toMessage(object: Parse.Object): Message {
  return {
    id: object.id!,
    senderId: object.get('sender')?.id ?? myId(),
    text: object.get('text') ?? '',
    hasAttachment: object.has('attachment'),
    sentAt: object.createdAt!,
    updatedAt: object.updatedAt ?? object.createdAt!,
  };
}
