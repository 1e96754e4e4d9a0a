package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Partition cuts the host off (true) or heals the cut (false). The cable stays
// plugged in: packets vanish in both directions, and neither end is told, as in
// a real partition. Only silence shows it.
func (h *Host) Partition(ctx context.Context, cut bool) error {
	return h.spoil(ctx, func(r *running) { r.Cut = cut })
}

// Direction of packets, seen from the host.
type Direction int

// The directions; Inbound|Outbound is both.
const (
	Inbound  Direction = 1 << iota // to the host
	Outbound                       // from the host
)

// Lose drops so many percent of the packets in the direction, at random: 100 is
// a one-way cut, 0 heals. A restart of the host heals both.
//
// Delay, duplicates and reordering of packets need a kernel with sch_netem,
// which build machines lack; TCP hides the last two anyway. Tests that want them
// for whole messages put a proxy in between.
func (h *Host) Lose(ctx context.Context, d Direction, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("network of host %s: cannot lose %d%%", h.rec.Name, percent)
	}
	return h.spoil(ctx, func(r *running) {
		if d&Inbound != 0 {
			r.LossIn = percent
		}
		if d&Outbound != 0 {
			r.LossOut = percent
		}
	})
}

// spoil changes what is lost on the host's cable: recorded first, then done.
func (h *Host) spoil(ctx context.Context, change func(*running)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rec.Running == nil || h.rec.Running.Veth == "" {
		return fmt.Errorf("network of host %s: %w", h.rec.Name, ErrOff)
	}
	change(h.rec.Running)
	if err := writeRecord(filepath.Join(h.dir, hostFile), h.rec); err != nil {
		return err
	}
	if _, err := onMachine(ctx, strings.NewReader(lossRules(h.machine(), *h.rec.Running)), "/usr/sbin/nft", "-f", "-"); err != nil {
		return fmt.Errorf("network of host %s: %w", h.rec.Name, err)
	}
	return nil
}

// lossRules is one nftables transaction that leaves the named table with exactly
// what the run asks for, or without the table.
func lossRules(table string, r running) string {
	in, out := r.LossIn, r.LossOut
	if r.Cut {
		in, out = 100, 100
	}
	rules := fmt.Sprintf("add table bridge %[1]s\ndelete table bridge %[1]s\n", table)
	if in == 0 && out == 0 {
		return rules
	}
	return rules + fmt.Sprintf(`table bridge %s {
	chain outbound {
		type filter hook prerouting priority 0;
		iifname %q %s
	}
	chain inbound {
		type filter hook postrouting priority 0;
		oifname %[2]q %[4]s
	}
}
`, table, r.Veth, drop(out), drop(in))
}

// drop is the rule for so many percent.
func drop(percent int) string {
	if percent == 100 { // nft refuses a comparison that is always true
		return "drop"
	}
	return fmt.Sprintf("numgen random mod 100 < %d drop", percent)
}

// Unplug pulls the host's cable (true) or plugs it in again (false): the guest
// sees its link go down, and its connections fail at once.
func (h *Host) Unplug(ctx context.Context, pulled bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rec.Running == nil || h.rec.Running.Veth == "" {
		return fmt.Errorf("network of host %s: %w", h.rec.Name, ErrOff)
	}
	state := "up"
	if pulled {
		state = "down"
	}
	if _, err := onMachine(ctx, nil, "/sbin/ip", "link", "set", "dev", h.rec.Running.Veth, state); err != nil {
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
