// The server of hello.mjs, made reachable by a relay: node relayed_hello.mjs INVITE.
import http from 'node:http';
import { relayEvent } from './relay.mjs';

const server = http.createServer((request, response) => {
  if (request.method === 'POST') request.pipe(response);
  else response.end(`hello, ${request.socket.remoteAddress}\n`);
});

const tunnel = await relayEvent(server, process.argv[2]);
console.log(`reachable at ${tunnel.address}`);
