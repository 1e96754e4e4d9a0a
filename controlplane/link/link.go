// Package link is the agents' door: its own listener, TLS 1.3 with client
// certificates, over which agents enrol, hold Watch or repeat Poll, and Report.
// From the certificate alone it knows who speaks. It decides nothing about
// tasks or servers: packages task and fleet do.
package link
