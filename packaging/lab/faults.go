package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Partition cuts the host off (true) or heals the cut (false). The cable stays
// plugged in: packets vanish in both directions, and neither end is told, as in
// a real partition. Only silence shows it.
func (h *Host) Partition(ctx context.Context, cut bool) error {
	state := "3" // forwarding
	if cut {
		state = "0" // disabled
	}
	return h.cable(ctx, "/sbin/ip", "link", "set", "dev", vethName, "type", "bridge_slave", "state", state)
}

// Unplug pulls the host's cable (true) or plugs it in again (false): the guest
// sees its link go down, and its connections fail at once.
func (h *Host) Unplug(ctx context.Context, pulled bool) error {
	state := "up"
	if pulled {
		state = "down"
	}
	return h.cable(ctx, "/sbin/ip", "link", "set", "dev", vethName, state)
}

// Direction of packets, seen from the host.
type Direction int

// The directions; Inbound|Outbound is both.
const (
	Inbound  Direction = 1 << iota // to the host
	Outbound                       // from the host
)

// Netem makes the host's network bad as tc-netem(8) can: Netem(ctx, Outbound,
// "delay", "200ms", "loss", "10%", "duplicate", "1%", "reorder", "25%").
// "loss", "100%" in one direction is a one-way cut. Without arguments the
// direction is good again. A restart of the host makes both good.
func (h *Host) Netem(ctx context.Context, d Direction, args ...string) error {
	verb := append([]string{"qdisc", "replace", "dev", vethName, "root", "netem"}, args...)
	if len(args) == 0 {
		verb = []string{"qdisc", "replace", "dev", vethName, "root", "pfifo"}
	}
	var errs []error
	if d&Inbound != 0 { // leaves the machine's end of the cable
		errs = append(errs, h.cable(ctx, append([]string{"/sbin/tc"}, verb...)...))
	}
	if d&Outbound != 0 { // leaves the guest's end
		leader, err := h.leader()
		if err != nil {
			return fmt.Errorf("netem of host %s: %w", h.rec.Name, err)
		}
		verb[3] = "host0"
		_, err = onMachine(ctx, nil, append([]string{"/usr/bin/nsenter", fmt.Sprintf("--target=%d", leader.PID),
			"--net", "--", "/sbin/tc"}, verb...)...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// vethName stands for the machine's end of a host's cable in the arguments of cable.
const vethName = "\x00veth"

func (h *Host) cable(ctx context.Context, argv ...string) error {
	h.mu.Lock()
	var veth string
	if h.rec.Running != nil {
		veth = h.rec.Running.Veth
	}
	h.mu.Unlock()
	if veth == "" {
		return fmt.Errorf("network of host %s: %w", h.rec.Name, ErrOff)
	}
	for i := range argv {
		if argv[i] == vethName {
			argv[i] = veth
		}
	}
	if _, err := onMachine(ctx, nil, argv...); err != nil {
		return fmt.Errorf("network of host %s: %w", h.rec.Name, err)
	}
	return nil
}

// LimitDir gives a directory of the host a disk of its own with so many bytes,
// for tests of a full disk: writers get ENOSPC. What the directory holds is
// copied over, owner and mode kept; a program that has files open there goes on
// writing to the old ones, so stop it first. Called again for the same
// directory it only changes the size, which is how space comes back. The disk
// is memory: power loss takes its content, and the old one shows again.
func (h *Host) LimitDir(ctx context.Context, path string, bytes int64) error {
	size := "size=" + strconv.FormatInt(bytes, 10)
	kind, err := h.Output(ctx, "stat", "--file-system", "--format=%T", "--", path)
	if err != nil {
		return err
	}
	if r, err := h.Exec(ctx, "mountpoint", "--quiet", "--", path); err != nil {
		return err
	} else if r.Code == 0 && kind == "tmpfs" {
		_, err = h.Output(ctx, "mount", "-o", "remount,"+size, "--", path)
		return err
	}
	owner, err := h.Output(ctx, "stat", "--format=uid=%u,gid=%g,mode=%a", "--", path)
	if err != nil {
		return err
	}
	const staging = "/run/lab-limit"
	for _, argv := range [][]string{
		{"mkdir", "--mode=0700", "--", staging},
		{"mount", "-t", "tmpfs", "-o", size + "," + owner, "tmpfs", staging},
		{"cp", "--archive", "--", path + "/.", staging},
		{"mount", "--bind", "--", staging, path},
		{"umount", "--", staging},
		{"rmdir", "--", staging},
	} {
		if _, err := h.Output(ctx, argv...); err != nil {
			return fmt.Errorf("limit %s on host %s: %w", path, h.rec.Name, err)
		}
	}
	return nil
}

// UnlimitDir takes the disk of LimitDir away, with all that was written to it.
func (h *Host) UnlimitDir(ctx context.Context, path string) error {
	_, err := h.Output(ctx, "umount", "--", strings.TrimSuffix(path, "/"))
	return err
}
