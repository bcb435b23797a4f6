import './style.css';
import { connectToServer } from './data/server';
import { isLoggedIn } from './data/session';
import { showChat } from './view/chat';
import { showLogin } from './view/login';
import { report } from './view/notice';

const page = document.getElementById('app')!;

function enter(): void {
  showChat(page).catch(report);
}

try {
  await connectToServer();
  if (isLoggedIn()) enter();
  else showLogin(page, enter);
} catch (error) {
  report(error);
}
