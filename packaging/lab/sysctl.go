package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctls are the kernel settings a lab needs. The protections belong to every
// Debian VPS but may be off on a build machine, and guests share the machine's
// kernel: without them the tests of links and races would measure the wrong
// thing. Forwarding lets guests reach the apt mirror.
var sysctls = map[string]string{
	"fs/protected_symlinks":  "1",
	"fs/protected_hardlinks": "1",
	"fs/protected_regular":   "2",
	"fs/protected_fifos":     "2",
	"net/ipv4/ip_forward":    "1",
}

func sysctlFile() string { return filepath.Join(StateDir(), "sysctl.json") }

// raiseSysctls records the present values, unless a lab already did, and sets
// ours. Called with the state lock held.
func raiseSysctls() error {
	if _, err := os.Stat(sysctlFile()); errors.Is(err, fs.ErrNotExist) {
		former := map[string]string{}
		for key := range sysctls {
			value, err := os.ReadFile("/proc/sys/" + key)
			if err != nil {
				return fmt.Errorf("read kernel setting: %w", err)
			}
			former[key] = strings.TrimSpace(string(value))
		}
		if err := writeRecord(sysctlFile(), former); err != nil {
			return err
		}
	}
	return setSysctls(sysctls)
}

// restoreSysctls gives the machine back its own values. Called with the state
// lock held, after the last lab is gone.
func restoreSysctls() error {
	former, err := readRecord[map[string]string](sysctlFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := setSysctls(former); err != nil {
		return err
	}
	return os.Remove(sysctlFile())
}

func setSysctls(values map[string]string) error {
	for key, value := range values {
		if _, known := sysctls[key]; !known {
			return fmt.Errorf("kernel setting %q is not one of the lab's", key)
		}
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set kernel setting: %w", err)
		}
	}
	return nil
}
