//! The swarm protocol: codec, connection state machine and TCP driver
