//! Every decision, pure: cluster, node, and the simulation of both.
