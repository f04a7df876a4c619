//! Kubernetes API watches and the inventory file become plain updates.
