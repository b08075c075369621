//! The NetworkDriver plugin protocol over HTTP/1.1 on unix sockets.
