// Package wire is a network between network namespaces that can be made bad: a switch in
// user space for IP packets, each namespace behind a TUN device. It drops, delays,
// duplicates and reorders packets as a rule says, which the kernels of small machines
// often have no module for. It needs Linux, /dev/net/tun and the right to administer
// networks.
package wire
