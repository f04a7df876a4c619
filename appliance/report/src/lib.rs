//! Elections, object status and events, written to the Kubernetes API.
