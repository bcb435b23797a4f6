// One user's browser window, in the words of the chat.

export class Window {
  /** Uncaught errors of the page: a test ends with none. */
  errors = [];

  static async open(browser, address, name) {
    const context = await browser.newContext({ viewport: { width: 1100, height: 760 } });
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    const window = new Window(page, name);
    page.on('pageerror', error => window.errors.push(error));
    await page.goto(address);
    return window;
  }

  constructor(page, name) {
    this.page = page;
    this.name = name;
  }

  signUp(password) {
    return this.#enter(password, 'sign-up');
  }

  logIn(password) {
    return this.#enter(password, 'log-in');
  }

  async logOut() {
    await this.#at('log-out').click();
    await this.#at('log-in').waitFor();
  }

  async #enter(password, button) {
    await this.#at('name').fill(this.name);
    await this.#at('password').fill(password);
    await this.#at(button).click();
    await this.isOnline();
  }

  /** Finds each by a piece of the name and starts a conversation with all of them. */
  async startConversation(...pieces) {
    await this.#at('new-conversation').click();
    for (const [piece, name] of pieces) {
      await this.#at('find').fill(piece);
      await this.page.locator(`[data-testid=person][data-name="${name}"]`).click();
    }
    await this.#at('start').click();
  }

  async openConversation(title) {
    await this.#conversation(title).click();
    await this.isIn(title);
  }

  async isIn(title) {
    await this.#at('room-title').filter({ hasText: title }).waitFor();
  }

  type(text) {
    return this.#at('text').pressSequentially(text);
  }

  async send(text) {
    await this.#at('text').fill(text);
    await this.#at('text').press('Enter');
  }

  /** The server's answers to new messages wait until the returned function is called. */
  async holdAnswers() {
    let release;
    const released = new Promise(resolve => { release = resolve; });
    const sends = '**/classes/Message';
    await this.page.route(sends, async route => {
      if (route.request().postDataJSON()._method) return route.fallback();
      const response = await route.fetch();
      await released;
      return route.fulfill({ response });
    });
    return async () => {
      release();
      await this.page.unroute(sends, { behavior: 'wait' });
    };
  }

  hasSentEverything() {
    return this.page.getByText('Sending…').waitFor({ state: 'hidden' });
  }

  /** Waits for a message of exactly this text. */
  sees(text) {
    return this.#message(text).first().waitFor();
  }

  countOf(text) {
    return this.#message(text).count();
  }

  messageCount() {
    return this.#at('message').count();
  }

  async seesTyping(text) {
    await this.#at('typing').filter({ hasText: text }).waitFor();
  }

  async seesNobodyTyping() {
    await this.#at('typing').filter({ hasText: /^$/ }).waitFor({ state: 'attached' });
  }

  /** Waits until the list shows this conversation with this last message. */
  async lists(title, lastMessage, { unread = false } = {}) {
    const entry = unread ? this.#conversation(title).and(this.page.locator('[data-unread]')) : this.#conversation(title);
    await entry.getByTestId('last-message').filter({ hasText: lastMessage }).waitFor();
  }

  conversationCount() {
    return this.#at('conversation').count();
  }

  async showOlder() {
    await this.#at('older').click();
  }

  async hasReadEverything() {
    await this.#at('older').waitFor({ state: 'hidden' });
  }

  isOnline() {
    return this.#hasStatus('online');
  }

  isReconnecting() {
    return this.#hasStatus('reconnecting');
  }

  isToldThat(text) {
    return this.#at('notices').getByText(text).waitFor();
  }

  isAskedToLogIn(why) {
    return this.#at('complaint').filter({ hasText: why }).waitFor();
  }

  /** The page may have noticed by itself that the session is gone, and be on its way to the log-in form. */
  async sendUnlessLoggedOut(text) {
    await Promise.race([this.send(text).catch(() => {}), this.#at('complaint').waitFor()]);
  }

  #hasStatus(status) {
    return this.page.locator(`[data-testid=status][data-status=${status}]`).waitFor();
  }

  #at(testId) {
    return this.page.getByTestId(testId);
  }

  #conversation(title) {
    return this.page.locator(`[data-testid=conversation][data-title="${title}"]`);
  }

  #message(text) {
    return this.#at('message-text').getByText(text, { exact: true });
  }
}
