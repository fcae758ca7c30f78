// Package load uses a cluster as many Prometheus and Grafana do, and holds what it is
// answered against what it sent. It knows nothing of how the nodes run: a Node is a URL that
// is a member of the cluster, or is not now.
//
// Senders scrape, queue and send; a probe for each node tells when that node takes writes;
// readers ask for raw samples all the time. Use starts them, Finish has the queues emptied,
// ReadAll reads everything back, and Failures says what was wrong.
package load
