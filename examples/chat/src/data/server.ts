// Where the server is and how it knows us: told by the server that serves this page.

import Parse from 'parse';
import { connection } from './connection';

interface Config {
  applicationId: string;
  javascriptKey: string | null;
  /** The API's path on this origin, e.g. `/parse`. */
  mount: string;
}

export async function connectToServer(): Promise<void> {
  const answer = await fetch('./config.json');
  if (!answer.ok) throw new Error(`config.json: status ${answer.status}`);
  const { applicationId, javascriptKey, mount } = (await answer.json()) as Config;

  Parse.initialize(applicationId, javascriptKey ?? '');
  // The SDK derives the live-query address from this one.
  Parse.serverURL = location.origin + mount;
  // Each object we are handed is a picture of one moment, not a view of shared state.
  Parse.Object.disableSingleInstance();
  connection.watch();
}
