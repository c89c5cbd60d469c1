"""One command a file: options in, a library call, a result out."""
