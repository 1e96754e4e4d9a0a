package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// createNetwork makes the bridge with the gateway's address, and NAT in a table
// of the lab's own.
func (l *Lab) createNetwork(ctx context.Context) error {
	bridge, subnet := l.rec.bridge(), l.rec.subnet()
	for _, argv := range [][]string{
		{"/sbin/ip", "link", "add", "name", bridge, "type", "bridge"},
		{"/sbin/ip", "address", "add", fmt.Sprintf("%s/%d", l.rec.gateway(), subnet.Bits()), "dev", bridge},
		{"/sbin/ip", "link", "set", "dev", bridge, "up"},
	} {
		if _, err := onMachine(ctx, nil, argv...); err != nil {
			return err
		}
	}
	rules := fmt.Sprintf(`table ip %s {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ip saddr %s ip daddr != %s masquerade
	}
}
`, bridge, subnet, subnet)
	_, err := onMachine(ctx, strings.NewReader(rules), "/usr/sbin/nft", "-f", "-")
	return err
}

// removeNetwork undoes createNetwork, however far it came.
func (l *Lab) removeNetwork(ctx context.Context) error {
	// "add" first makes the deletion of an absent table a success.
	rules := fmt.Sprintf("add table ip %[1]s\ndelete table ip %[1]s\n", l.rec.bridge())
	_, err := onMachine(ctx, strings.NewReader(rules), "/usr/sbin/nft", "-f", "-")
	return errors.Join(err, deleteLink(ctx, l.rec.bridge()))
}

func deleteLink(ctx context.Context, name string) error {
	if !linkExists(name) {
		return nil
	}
	_, err := onMachine(ctx, nil, "/sbin/ip", "link", "delete", "dev", name)
	if err != nil && !linkExists(name) {
		return nil // it went by itself meanwhile
	}
	return err
}

func linkExists(name string) bool {
	_, err := os.Lstat("/sys/class/net/" + name)
	return !errors.Is(err, fs.ErrNotExist)
}

// vethOf finds the machine's end of the cable whose other end is host0 of the
// network namespace that the process lives in.
func vethOf(ctx context.Context, leader process) (string, error) {
	type link struct {
		Name  string `json:"ifname"`
		Index int    `json:"ifindex"`
		Peer  int    `json:"link_index"`
	}
	out, err := onMachine(ctx, nil, "/usr/bin/nsenter", fmt.Sprintf("--target=%d", leader.PID), "--net", "--",
		"/sbin/ip", "-json", "link", "show", "dev", "host0")
	if err != nil {
		return "", err
	}
	var inside []link
	if err := json.Unmarshal(out, &inside); err != nil || len(inside) != 1 {
		return "", fmt.Errorf("host0 is not to be read from %q: %w", out, err)
	}
	out, err = onMachine(ctx, nil, "/sbin/ip", "-json", "link", "show", "type", "veth")
	if err != nil {
		return "", err
	}
	var outside []link
	if err := json.Unmarshal(out, &outside); err != nil {
		return "", err
	}
	for _, l := range outside {
		if l.Index == inside[0].Peer {
			return l.Name, nil
		}
	}
	return "", fmt.Errorf("no interface with index %d, the peer of host0", inside[0].Peer)
}

// guestNetwork is the networkd file of host0. Its name must sort before the
// 80-container-host0.network of systemd, which asks for DHCP.
const guestNetworkFile = "/etc/systemd/network/10-lab.network"

func (l *Lab) guestNetwork(h hostRecord) string {
	return fmt.Sprintf(`[Match]
Name=host0

[Network]
Address=%s/%d
Gateway=%s
DHCP=no
LinkLocalAddressing=no
IPv6AcceptRA=no
`, h.Addr, l.rec.subnet().Bits(), l.rec.gateway())
}

// resolvConf is the machine's resolver as a guest can use it: a stub on the
// machine's loopback is out of its reach, the servers behind it are not.
func resolvConf() ([]byte, error) {
	raw, err := os.ReadFile("/run/systemd/resolve/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = os.ReadFile("/etc/resolv.conf")
	}
	return raw, err
}
