"""An HTTP server of a test, on this machine alone."""

from http.server import ThreadingHTTPServer


class LocalServer(ThreadingHTTPServer):
    """Threads for requests, which the end of the process does not wait for.

    A client with more open connections than the queue holds would wait for its lost packets, for minutes.
    """

    daemon_threads = True
    request_queue_size = 1024
