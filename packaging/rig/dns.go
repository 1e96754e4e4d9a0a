package rig

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DNS is a real name server (knot), whose records are set by dynamic updates
// (RFC 2136), as a customer's would be by hand.
type DNS struct {
	Address string   // HOST:PORT
	Zones   []string // a zone before those below it
	// KeyName and Key, in base64, sign updates from elsewhere (TSIG, hmac-sha256).
	KeyName, Key string

	server *exec.Cmd
	exited chan struct{}
}

// StartDNS starts it at an address of this machine; updates are taken from this
// machine only. Stop it, always.
func StartDNS(ctx context.Context, address, dir string, zones ...string) (*DNS, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &DNS{Address: address, Zones: zones, KeyName: "chom", Key: base64.StdEncoding.EncodeToString([]byte(rand.Text()))}
	config := fmt.Sprintf(`
server:
    listen: %[1]s@%[2]s
    rundir: %[3]q
database:
    storage: %[3]q
key:
  - id: %[4]s
    algorithm: hmac-sha256
    secret: %[5]s
acl:
  - id: here
    address: %[1]s
    action: [update, transfer]
  - id: signed
    key: %[4]s
    action: [update, transfer]
zone:
`, host, port, dir, d.KeyName, d.Key)
	for _, zone := range zones {
		// Nothing is remembered for longer than a second, be it there or not.
		records := fmt.Sprintf("%[1]s. 1 SOA ns.%[1]s. root.%[1]s. 1 60 60 60 1\n%[1]s. 1 NS ns.%[1]s.\nns.%[1]s. 1 A %[2]s\n", zone, host)
		if err := os.WriteFile(filepath.Join(dir, zone+".zone"), []byte(records), 0o600); err != nil {
			return nil, err
		}
		config += fmt.Sprintf("  - domain: %[1]s\n    storage: %[2]q\n    file: %[1]s.zone\n    acl: [signed, here]\n", zone, dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "knot.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.server = exec.Command("/usr/sbin/knotd", "--config", filepath.Join(dir, "knot.conf"))
	d.server.Stdout, d.server.Stderr = log, log
	d.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if d.exited, err = startAndWait(d.server); err != nil {
		return nil, fmt.Errorf("start knot: %w", err)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	for {
		if _, err = resolver.LookupNS(ctx, zones[len(zones)-1]+"."); err == nil {
			return d, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-d.exited:
			return nil, errors.New("knot ended while starting: see knot.log")
		case <-ctx.Done():
			d.Stop()
			return nil, fmt.Errorf("knot does not answer: %w", err)
		}
	}
}

// Set makes a record the only one of its name and type.
func (d *DNS) Set(ctx context.Context, name, kind, value string) error {
	return d.update(ctx, name, fmt.Sprintf("del %[1]s. %[2]s\nadd %[1]s. 1 %[2]s %[3]s", name, kind, value))
}

// Delete removes a name's records of a type.
func (d *DNS) Delete(ctx context.Context, name, kind string) error {
	return d.update(ctx, name, fmt.Sprintf("del %s. %s", name, kind))
}

func (d *DNS) update(ctx context.Context, name, commands string) error {
	zone := ""
	for _, z := range d.Zones {
		if name == z || strings.HasSuffix(name, "."+z) {
			zone = z // the last one is the nearest
		}
	}
	host, port, err := net.SplitHostPort(d.Address)
	if err != nil {
		return err
	}
	update := exec.CommandContext(ctx, "/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(fmt.Sprintf("server %s %s\nlocal %s\nzone %s.\n%s\nsend\nquit\n", host, port, host, zone, commands))
	if out, err := update.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		return fmt.Errorf("knsupdate: %w: %s", err, out)
	}
	return nil
}

// Stop ends it.
func (d *DNS) Stop() {
	_ = d.server.Process.Kill() // it keeps nothing
	<-d.exited
}
