/**
 * Lets a server be reached through a relay: its users come from a public port there.
 *
 *     const tunnel = await relayEvent(server, invite);     // or relayPool; in the place of server.listen(8000)
 *     console.log(`reachable at ${tunnel.address}`);
 *
 * `server` is a net.Server or an http.Server; the invite is what `relay invite` prints (TLS, with an identity), or HOST:PORT
 * of a relay that is open to everybody (plain text). Copy this file beside your program: it needs nothing but Node 18.
 * docs/PROTOCOL.md specifies what is spoken here: sections 1, 3, 4 and 7 (the lines), 8 (the proof) and 9 (TLS).
 *
 * Two aborts look to Node like ends that were meant: a RST right behind data, and under TLS a FIN without close_notify.
 */
import { createHash, createHmac } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import net from 'node:net';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';

const EXCHANGE = 10_000; // Milliseconds for a connection, and for a whole exchange: the relay itself allows 5 s.
const OLD_RELAY = 2_000; // Without an answer to a greeting: then a relay is an old one, which gives none.
const SLOWEST = 30_000; // Between two tries to open the tunnel again, at most.
const LINE = 512; // Bytes of a relay's line, at most.
const MEMBERS = 8; // Idle members of a pool: as many users may arrive within one round trip to the relay.

const WHERE = new RegExp(
  '^(?:relay://(?<name>[a-z0-9][a-z0-9._-]{0,62}):(?<token>[A-Za-z0-9_-]{43})@)?' +
    '(?:\\[(?<v6>[0-9a-fA-F:.]+)\\]|(?<host>[^\\s:/?@\\[\\]]+))(?::(?<port>[0-9]{1,5}))?' +
    '(?:\\?pin=sha256-(?<pin>[0-9a-f]{64}))?$',
);

/** Tells the services of an identity apart: this program gets the public port again that it had before it was restarted. */
const SERVICE = basename(process.argv[1] ?? 'node').replace(/[^A-Za-z0-9._-]/g, '_').slice(0, 64);

/** Errors that no retry can help; all others pass. */
const FINAL = new Set(
  'unsupported bad-request identity-required denied revoked expired tls-required port-not-allowed untrusted'.split(' '),
);

/** Announces each user, for whom we dial back. */
export function relayEvent(server, where) {
  return Tunnel.open(server, where, 'event');
}

/** Keeps idle connections, each of which becomes a user's. */
export function relayPool(server, where) {
  return Tunnel.open(server, where, 'pool');
}

/**
 * A public port whose users are the server's. A lost tunnel is opened again, on the same port if it is still free; 'lost'
 * (with the reason) and 'back' say so. 'error' says that no retry can help.
 */
class Tunnel extends EventEmitter {
  static async open(server, where, protocol) {
    const tunnel = new Tunnel(server, new Relay(where), protocol);
    const link = await tunnel.relay.open(protocol);
    tunnel.#run(link);
    return tunnel;
  }

  #server;
  #protocol;
  #closed = false;
  #idle = new Set(); // What only close() ends: the link, or the pool's members.

  constructor(server, relay, protocol) {
    super();
    this.#server = server;
    this.relay = relay;
    this.#protocol = protocol;
  }

  /** Where users come. */
  get address() {
    const { host, publicPort } = this.relay;
    return net.isIPv6(host) ? `[${host}]:${publicPort}` : `${host}:${publicPort}`;
  }

  /** Takes no more users. Those who are here may finish. */
  close() {
    this.#closed = true;
    for (const socket of this.#idle) socket.destroy();
    // A pool keeps its port for some time without members, unless it is told to end.
    if (this.#protocol === 'pool') this.relay.endPool();
  }

  async #run(link) {
    for (;;) {
      const reason = await (this.#protocol === 'pool' ? this.#pool(link) : this.#event(link)).catch((error) => error);
      if (this.#closed) return;
      this.emit('lost', reason);
      link = await this.#openAgain(reason);
      if (!link) return;
      this.emit('back');
    }
  }

  async #openAgain(reason) {
    for (let pause = 1000; ; pause = Math.min(2 * pause, SLOWEST)) {
      if (FINAL.has(reason.code)) {
        this.emit('error', reason);
        return;
      }
      await sleep(pause * (0.5 + Math.random() / 2));
      if (this.#closed) return;
      try {
        const link = await this.relay.open(this.#protocol);
        if (!this.#closed) return link;
        link.destroy();
        if (this.#protocol === 'pool') this.relay.endPool();
        return;
      } catch (error) {
        if (this.#closed) return;
        reason = error;
      }
    }
  }

  async #event(link) {
    this.#idle.add(link);
    try {
      for (;;) {
        const ticket = await answer(link);
        // One user's trouble is not the others'.
        this.relay.dial(`event\n${ticket}\n`).then((user) => this.#serve(user), () => {});
      }
    } finally {
      this.#idle.delete(link);
      link.destroy();
    }
  }

  async #pool(link) {
    const reasons = await Promise.all(Array.from({ length: MEMBERS }, (_, i) => this.#keepMember(i ? undefined : link)));
    return reasons[0];
  }

  /** Keeps one member idle, until the pool seems to be gone; gives the reason. */
  async #keepMember(member) {
    for (let refused = 0, reason; ; member = undefined) {
      try {
        member ??= await this.relay.dial(`pool\n${this.relay.pool}\n`);
        this.#idle.add(member);
        if (this.#closed) throw new Error('closed');
        if (!(await readable(member))) throw new Error('the relay has closed a member');
        refused = 0;
        this.#serve(member);
      } catch (error) {
        member?.destroy();
        reason = error;
        refused += 1;
        if (refused === 3 || this.#closed) return reason;
        await sleep(1000);
      } finally {
        this.#idle.delete(member);
      }
    }
  }

  /** Gives a user to the server. `remoteAddress` is the user's, or undefined where the relay does not tell. */
  async #serve(user) {
    let remoteAddress, remotePort, remoteFamily;
    if (this.relay.knowsUsers) {
      const said = await within(EXCHANGE, line(user), user).catch(() => {});
      const words = (said ?? '').split(/\s+/);
      if (words[0] !== 'PROXY' || words.length < 2) return user.destroy();
      if (words[1] !== 'UNKNOWN') {
        [remoteFamily, remoteAddress, remotePort] = [words[1].replace('TCP', 'IPv'), words[2], Number(words[4])];
      }
    }
    for (const [name, value] of Object.entries({ remoteAddress, remotePort, remoteFamily })) {
      Object.defineProperty(user, name, { value });
    }
    user.allowHalfOpen = this.#server.allowHalfOpen; // As it is for users who come without a relay.
    this.#server.emit('connection', user);
  }
}

/** Where the relay is, how we know that it is the one, and who we are. */
class Relay {
  constructor(where) {
    const found = where.trim().replace(/^['"]|['"]$/g, '').match(WHERE)?.groups;
    if (!found || (found.pin && !found.name)) throw new TypeError('neither an invite that I understand nor HOST:PORT');
    Object.assign(this, { name: found.name, token: Buffer.from(found.token ?? '', 'base64url'), pin: found.pin });
    Object.assign(this, { host: found.v6 ?? found.host, port: Number(found.port ?? 7000) });
  }

  /** A connection on which `text` was said. */
  async dial(text) {
    const { host, port, pin } = this;
    let socket;
    if (this.name) {
      // The pin is checked below, instead of names and dates; TLS itself checks that the peer has the key.
      const trust = pin && { rejectUnauthorized: false, servername: `${pin.slice(0, 32)}.${pin.slice(32)}.pin.invalid` };
      const options = { host, port, allowHalfOpen: true, minVersion: 'TLSv1.3', ALPNProtocols: ['relay/1'], ...trust };
      socket = tls.connect(options);
    } else {
      socket = net.connect({ host, port, allowHalfOpen: true });
    }
    await within(EXCHANGE, once(socket, this.name ? 'secureConnect' : 'connect'), socket);
    // Not a word before this.
    if (pin && binding(socket).toString('hex') !== pin) {
      socket.destroy();
      throw fault('untrusted', 'the certificate is not the one that the invite names: ask for a new one');
    }
    socket.on('error', () => {}); // Who waits for the socket is told; between two waits it shall not end the program.
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 20_000);
    socket.write(text);
    return socket;
  }

  /**
   * A connection and what the relay can do: nothing if it is an old one, which does not answer, or closes. One that has
   * answered before is none.
   */
  async greet() {
    if (!this.old) {
      const link = await this.dial('relay/1\n');
      const greeting = await within(this.name ? EXCHANGE : OLD_RELAY, line(link), link).catch((error) => {
        if (error.code !== 'ETIMEDOUT' || this.name) throw error;
      });
      const [word, ...features] = (greeting ?? '').split(/\s+/);
      if (word === 'relay/1') {
        this.old = false;
        return [link, features];
      }
      link.destroy();
      if (greeting || this.name || this.old === false) throw new Error('that is no relay, or it does not answer');
    }
    return [await this.dial(''), []];
  }

  /** The link of a new tunnel. The public port is that of the last one, where possible. */
  async open(protocol) {
    const [link, features] = await this.greet();
    return within(EXCHANGE, this.#request(link, features, protocol), link).catch((error) => {
      link.destroy();
      throw error;
    });
  }

  /** The port is free at once, and users who have a member keep it. */
  endPool() {
    if (this.knowsEnd) this.dial(`pool\nend ${this.pool}\n`).then((socket) => socket.resume().end(), () => {});
  }

  async #request(link, features, protocol) {
    if (this.name) {
      link.write(`auth ${this.name}\n`);
      const nonce = Buffer.from(await answer(link), 'base64url');
      link.write(`${prove(this.token, this.name, nonce, binding(link)).toString('base64url')}\n`);
    }
    this.knowsUsers = features.includes('proxy');
    const proxy = this.knowsUsers ? ' proxy=v1' : '';
    const wish = this.publicPort && features.includes('wish') ? ` wish=${this.publicPort}` : '';
    const service = this.name && !wish && features.includes('service') ? ` service=${SERVICE}` : '';
    link.write(`${protocol}${proxy}${wish}${service}\nnew\n`);
    if (this.name && (await answer(link)) !== 'ok') throw new Error('that is no relay');
    const port = await answer(link);
    if (!/^[0-9]{1,5}$/.test(port)) throw new Error('that is no relay');
    this.publicPort = Number(port);
    if (protocol === 'pool') this.pool = await answer(link);
    this.old ??= true;
    this.knowsEnd = features.includes('end');
    return link;
  }
}

/** What ties a proof to a connection. */
function binding(socket) {
  return createHash('sha256').update(socket.getPeerCertificate().raw).digest();
}

/** The proof that we know the token, for this nonce and this connection, without telling it. */
function prove(token, name, nonce, binding) {
  const mac = (key, message) => createHmac('sha256', key).update(message).digest();
  const fields = ['relay/1 proof', name, nonce, binding].map((field) => Buffer.from(field));
  const message = Buffer.concat(fields.flatMap((field) => [Buffer.from([field.length >> 8, field.length & 255]), field]));
  const clientKey = mac(token, 'relay/1 client key');
  const verifier = createHash('sha256').update(clientKey).digest();
  return mac(verifier, message).map((byte, i) => byte ^ clientKey[i]);
}

/** Waits until there is something to read: true; false at the end. */
function readable(socket) {
  return new Promise((resolve, reject) => {
    const settle = (how, what) => {
      for (const [event, listener] of Object.entries(listeners)) socket.off(event, listener);
      how(what);
    };
    const listeners = {
      readable: () => socket.readableLength && settle(resolve, true),
      end: () => settle(resolve, false),
      close: () => settle(reject, new Error('the connection was lost')),
      error: (error) => settle(reject, error),
    };
    if (socket.readableLength) return resolve(true);
    if (socket.readableEnded) return resolve(false);
    if (socket.destroyed) return reject(new Error('the connection was lost'));
    for (const [event, listener] of Object.entries(listeners)) socket.on(event, listener);
    socket.read(0);
  });
}

/** The next line; undefined at the end. What follows it stays in the socket. */
async function line(socket) {
  let text = Buffer.alloc(0);
  while (await readable(socket)) {
    text = Buffer.concat([text, socket.read()]);
    const end = text.indexOf('\n');
    if (end < 0 && text.length <= LINE) continue;
    if (end < 0 || end > LINE) throw new Error('that is no relay');
    if (end + 1 < text.length) socket.unshift(text.subarray(end + 1));
    const words = text.toString('utf8', 0, end).trim();
    if (words.startsWith('error ')) throw fault(words.split(' ')[1], `the relay refuses: ${JSON.stringify(words.slice(6))}`);
    return words;
  }
}

async function answer(socket) {
  const words = await line(socket);
  if (!words) throw new Error('the relay has closed the connection');
  return words;
}

/** What the promise gives, if it does so in time; else the socket is closed. */
function within(milliseconds, promise, socket) {
  const timer = setTimeout(() => socket.destroy(fault('ETIMEDOUT', 'the relay does not answer')), milliseconds);
  return promise.finally(() => clearTimeout(timer));
}

function fault(code, message) {
  return Object.assign(new Error(message), { code });
}
