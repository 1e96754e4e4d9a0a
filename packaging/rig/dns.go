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

// DNS is a real name server (knot) for one zone, whose records are set by dynamic
// updates (RFC 2136), as a customer's would be by hand.
type DNS struct {
	Address string // HOST:PORT
	Zone    string
	// KeyName and Key, in base64, sign updates from elsewhere (TSIG, hmac-sha256).
	KeyName, Key string

	server *exec.Cmd
	exited chan struct{}
}

// StartDNS starts it at an address of this machine; updates are taken from this
// machine only. Stop it, always.
func StartDNS(ctx context.Context, address, zone, dir string) (*DNS, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &DNS{Address: address, Zone: zone, KeyName: "chom", Key: base64.StdEncoding.EncodeToString([]byte(rand.Text()))}
	// Nothing is remembered for longer than a second, be it there or not.
	records := fmt.Sprintf("%[1]s. 1 SOA ns.%[1]s. root.%[1]s. 1 60 60 60 1\n%[1]s. 1 NS ns.%[1]s.\nns.%[1]s. 1 A %[2]s\n", zone, host)
	config := fmt.Sprintf(`
server:
    listen: %[1]s@%[2]s
    rundir: %[3]q
database:
    storage: %[3]q
key:
  - id: %[5]s
    algorithm: hmac-sha256
    secret: %[6]s
acl:
  - id: here
    address: %[1]s
    action: [update, transfer]
  - id: signed
    key: %[5]s
    action: [update, transfer]
zone:
  - domain: %[4]s
    storage: %[3]q
    file: zone
    acl: [signed, here]
`, host, port, dir, zone, d.KeyName, d.Key)
	for name, text := range map[string]string{"zone": records, "knot.conf": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
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
		if _, err = resolver.LookupNS(ctx, zone+"."); err == nil {
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
	return d.update(ctx, fmt.Sprintf("del %[1]s. %[2]s\nadd %[1]s. 1 %[2]s %[3]s", name, kind, value))
}

// Delete removes a name's records of a type.
func (d *DNS) Delete(ctx context.Context, name, kind string) error {
	return d.update(ctx, fmt.Sprintf("del %s. %s", name, kind))
}

func (d *DNS) update(ctx context.Context, commands string) error {
	host, port, err := net.SplitHostPort(d.Address)
	if err != nil {
		return err
	}
	update := exec.CommandContext(ctx, "/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(fmt.Sprintf("server %s %s\nlocal %s\nzone %s.\n%s\nsend\nquit\n", host, port, host, d.Zone, commands))
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
