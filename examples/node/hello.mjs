// Greets users, and sends back what they post. relayed_hello.mjs is the same, behind a relay.
import http from 'node:http';

const server = http.createServer((request, response) => {
  if (request.method === 'POST') request.pipe(response);
  else response.end(`hello, ${request.socket.remoteAddress}\n`);
});

server.listen(8000, 'localhost');
