module relay.test/peers

go 1.20

// What a program of 2017 was built with: no close timeout, nothing received after a stream's own close.
require github.com/hashicorp/yamux v0.0.0-20160720233140-d1caa6c97c9f
