//! One swarm's decisions: what to ask of whom, and whom to serve
