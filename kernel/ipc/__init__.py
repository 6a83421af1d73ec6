"""How processes reach the kernel. `server` is the only importer of zmq in the kernel."""
