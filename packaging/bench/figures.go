package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// figure is one promise, and how it is measured.
type figure struct {
	name    string
	what    string
	measure func(context.Context, *bench) ([]row, error)
}

// figures are all that CHOM promises, in the order in which they are measured.
var figures = []figure{
	{"agent-idle", "what an idle agent takes from its host", agentIdle},
	{"dispatch-sqlite", "an order's way to a host and back, the control plane on its embedded database", dispatchSQLite},
	{"dispatch-postgres", "the same on PostgreSQL, with fsync", dispatchPostgres},
	{"list-sqlite", "pages of sites by REST, the control plane on its embedded database", listSQLite},
	{"list-postgres", "the same on PostgreSQL, with fsync", listPostgres},
	{"door", "what a call costs beside its noun", doorCost},
	{"login", "what signing in costs, and what a crowd of it takes from others", login},
	{"site-static", "a static site, from the API call to its page", siteStatic},
	{"site-wordpress", "a WordPress site, from the API call to its page", siteWordPress},
	{"certificate", "a certificate, from the moment at which the DNS leads to the site", certificate},
	{"renewal", "500 names of one host whose certificates are renewed with the control plane off", renewal},
	{"backup", "a backup of a WordPress site of 1.2 GB, the next one, and a restore", backups},
	{"dashboard", "what somebody in front of the dashboard waits for", dashboard},
	{"first-way", "the dashboard, from an empty account to a WordPress by HTTPS", firstWay},
	{"swarm", "2,000 connected agents, chomd killed under them, and work under faults", swarm},
	{"fresh-server", "a fresh VPS, from the pasted line to a server that takes sites", freshServer},
}

func names(all []figure) []string {
	var n []string
	for _, f := range all {
		n = append(n, f.name)
	}
	return n
}

// choose finds the figure of that name; without a name it is all of them.
func choose(all []figure, name string) ([]figure, error) {
	if name == "" {
		return all, nil
	}
	for _, f := range all {
		if f.name == name {
			return []figure{f}, nil
		}
	}
	return nil, fmt.Errorf("there is no figure %q; there are: %s", name, strings.Join(names(all), ", "))
}

// bench is what every measurement has at hand.
type bench struct {
	bin, packages string
	verbose       bool
	progress      io.Writer
}

// say tells a person what happens.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}

// detail tells it to one who wants to know more.
func (b *bench) detail(format string, args ...any) {
	if b.verbose {
		b.say("    "+format, args...)
	}
}
