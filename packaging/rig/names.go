package rig

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"chom.dev/servers/knot"
	"chom.dev/servers/pebble"
)

// Ports of what names need, on the lab's gateway address.
const (
	dnsPort = 53
	caPort  = 14000
)

// startNames starts a name server for the zones "example" and "wild.example", an ACME CA that asks
// it, and gives the flags with which chomd goes by both.
func (r *Rig) startNames(ctx context.Context) (flags []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	gw := r.Lab.Gateway().String()
	zones, log, err := place(filepath.Join(r.Dir, "knot"))
	if err != nil {
		return nil, err
	}
	if r.DNS, err = knot.Start(ctx, knot.Options{
		Dir: zones, Address: fmt.Sprintf("%s:%d", gw, dnsPort), Zones: []string{"example", "wild.example"}, Log: log,
	}); err != nil {
		return nil, err
	}
	dir, log, err := place(filepath.Join(r.Dir, "pebble"))
	if err != nil {
		return nil, err
	}
	if r.CA, err = pebble.Start(ctx, pebble.Options{
		Dir: dir, Address: gw, Port: caPort, DNSServer: r.DNS.Address, NonceReject: r.NonceReject, Validity: r.Validity, Log: log,
	}); err != nil {
		return nil, err
	}
	roots, config := filepath.Join(dir, "roots.pem"), filepath.Join(r.Dir, "acme.yaml")
	text := fmt.Sprintf("contact: ops@platform.example\nissuers:\n- name: pebble\n  directory: %s\n  caa: [pebble.letsencrypt.org]\n  roots: %s\n", r.CA.DirectoryURL, roots)
	for file, text := range map[string][]byte{roots: r.CA.Roots, config: []byte(text)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
	}
	return []string{
		"--resolver", r.DNS.Address, "--acme-config", config,
		"--outbound-allow", netip.PrefixFrom(r.Lab.Gateway(), 24).Masked().String(), // hosts of the lab stand for the public web
	}, nil
}

// place makes a directory for a server's files, and a log in it.
func place(dir string) (string, *os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	return dir, log, err
}
