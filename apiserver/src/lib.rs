//! An embedded Kubernetes-compatible API server over SQLite.
