"""What all tests share."""

import signal

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts itself; tests end programs by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
