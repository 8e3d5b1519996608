/**
 * Makes a local service reachable by a relay.
 *
 *     node forward.mjs event|pool INVITE PORT
 *
 * INVITE is what `relay invite` prints, or HOST:PORT of a relay that is open to everybody. Users reach the service on
 * localhost:PORT.
 */
import net from 'node:net';
import { relayEvent, relayPool } from './relay.mjs';

const [protocol, where, port] = process.argv.slice(2);
const open = { event: relayEvent, pool: relayPool }[protocol];
if (!port || !open) {
  console.error('usage: node forward.mjs event|pool INVITE PORT');
  process.exit(2);
}

/** Ends a connection with a RST, which nobody takes for the end of what was to be said; under TLS a FIN alone is none. */
function abort(socket) {
  if (socket.encrypted) socket.destroy();
  else socket.resetAndDestroy();
}

const server = net.createServer({ allowHalfOpen: true }, (user) => {
  const service = net.connect({ host: 'localhost', port, allowHalfOpen: true });
  // Each direction has its end; should anything fail, both ends see an abort.
  user.pipe(service).pipe(user);
  for (const [one, other] of [[user, service], [service, user]]) {
    one.on('error', (error) => {
      console.error(`a user was lost: ${error.message}`);
      abort(other);
    });
  }
});

const tunnel = await open(server, where).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
console.log(`reachable at ${tunnel.address}`);
tunnel.on('lost', (reason) => console.error(`the tunnel was lost: ${reason.message}`));
tunnel.on('back', () => console.log(`reachable again at ${tunnel.address}`));
