// An echo service behind a relay, on the yamux of the registry's package `yamux-js`:
//
//     node service.js HOST PORT
//
// It does what can be done around the package; docs/PROTOCOL.md says what is wrong inside of it.
'use strict';

const net = require('node:net');
const { Server } = require('yamux-js');

const [host, port] = process.argv.slice(2);
if (!port) {
    console.error('usage: node service.js HOST PORT');
    process.exit(2);
}

const link = net.connect({ host, port, noDelay: true }, () => link.write('multiplex\n'));
link.on('error', (error) => end(`the link has failed: ${error.message}`));
link.on('end', () => end('the relay has ended the link'));

let lines = Buffer.alloc(0);
link.on('data', function answer(data) {
    lines = Buffer.concat([lines, data]);
    const end = lines.indexOf('\n');
    if (end < 0) return;
    link.off('data', answer);
    link.pause();
    console.log(`established relay address: ${host}:${lines.subarray(0, end).toString().trim()}`);
    const session = new Server(serve, { logger: () => {} });
    session.on('error', (error) => end_with(error));
    // What followed the line belongs to the session.
    if (lines.length > end + 1) link.unshift(lines.subarray(end + 1));
    link.pipe(session).pipe(link);
});

// A stream has no way to hear of its user's end-of-file, and ends its own side by `close` alone.
function serve(stream) {
    stream.on('data', (data) => stream.write(data));
    stream.on('end', () => stream.close());
    stream.on('error', (error) => console.error(`a user was lost: ${error.message}`));
}

function end_with(error) {
    end(`the session has failed: ${error.message}`);
}

function end(why) {
    console.error(why);
    process.exit(1);
}
