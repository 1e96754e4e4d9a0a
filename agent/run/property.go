package run

import (
	"fmt"
	"strconv"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Property is one systemd unit setting as a unit file has it, e.g.
// {"PrivateTmp", "yes"}.
type Property struct{ Key, Value string }

// setting gives the property as PID 1 takes it over D-Bus, where each has a
// type of its own. It refuses what transient units have had no need of yet.
func (p Property) setting() (sd.Property, error) {
	typed, known := types[p.Key]
	if !known {
		return sd.Property{}, fmt.Errorf("run: setting %s of transient units is not known", p.Key)
	}
	value, err := typed(p.Value)
	if err != nil {
		return sd.Property{}, fmt.Errorf("run: setting %s: %w", p.Key, err)
	}
	return sd.Property{Name: p.Key, Value: dbus.MakeVariant(value)}, nil
}

// types says how the values of unit files become those of D-Bus; a setting
// that comes more than once adds to its list there, too.
var types = map[string]func(string) (any, error){
	"BindPaths":               bind,
	"BindReadOnlyPaths":       bind,
	"CPUSchedulingPolicy":     one(map[string]int32{"idle": 5}), // SCHED_IDLE
	"CPUWeight":               weight,
	"CapabilityBoundingSet":   noneOf,
	"IOSchedulingClass":       one(map[string]int32{"idle": 3}), // IOPRIO_CLASS_IDLE
	"IOWeight":                number,
	"InaccessiblePaths":       words,
	"KeyringMode":             text,
	"LimitNOFILE":             number,
	"LockPersonality":         flag,
	"MemoryMax":               number,
	"MemorySwapMax":           number,
	"Nice":                    nice,
	"NoNewPrivileges":         flag,
	"PrivateDevices":          flag,
	"PrivateIPC":              flag,
	"PrivateNetwork":          flag,
	"PrivateTmp":              flag,
	"ProtectClock":            flag,
	"ProtectControlGroups":    flag,
	"ProtectHome":             text,
	"ProtectHostname":         flag,
	"ProtectKernelLogs":       flag,
	"ProtectKernelModules":    flag,
	"ProtectKernelTunables":   flag,
	"ProtectProc":             text,
	"ProtectSystem":           text,
	"ReadWritePaths":          words,
	"RestrictAddressFamilies": onlyThese,
	"RestrictNamespaces":      allOf,
	"RestrictRealtime":        flag,
	"RestrictSUIDSGID":        flag,
	"RuntimeDirectory":        words,
	"RuntimeDirectoryMode":    mode,
	"SystemCallArchitectures": words,
	"TasksMax":                number,
	"TemporaryFileSystem":     mount,
	"UMask":                   mode,
}

func text(v string) (any, error)  { return v, nil }
func words(v string) (any, error) { return strings.Fields(v), nil }

func flag(v string) (any, error) {
	if v != "yes" && v != "no" {
		return nil, fmt.Errorf("%q is neither yes nor no", v)
	}
	return v == "yes", nil
}

func number(v string) (any, error) { return strconv.ParseUint(v, 10, 64) }

// weight is a number, or idle, which is none.
func weight(v string) (any, error) {
	if v == "idle" {
		return uint64(0), nil
	}
	return number(v)
}

// one takes what has a number of its own.
func one(known map[string]int32) func(string) (any, error) {
	return func(v string) (any, error) {
		n, ok := known[v]
		if !ok {
			return nil, fmt.Errorf("%q is not known", v)
		}
		return n, nil
	}
}

func nice(v string) (any, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	return int32(n), err
}

func mode(v string) (any, error) {
	n, err := strconv.ParseUint(v, 8, 32)
	return uint32(n), err
}

// noneOf is a set of which nothing is left.
func noneOf(v string) (any, error) {
	if v != "" {
		return nil, fmt.Errorf("only none of them can be said, not %q", v)
	}
	return uint64(0), nil
}

// allOf is a set that is forbidden as a whole; over D-Bus it is the set of what
// is allowed.
func allOf(v string) (any, error) {
	if v != "yes" {
		return nil, fmt.Errorf("only all of them can be said, not %q", v)
	}
	return uint64(0), nil
}

func onlyThese(v string) (any, error) {
	return struct {
		Only  bool
		Names []string
	}{true, strings.Fields(v)}, nil
}

func mount(v string) (any, error) {
	path, options, _ := strings.Cut(v, ":")
	return []struct{ Path, Options string }{{path, options}}, nil
}

// bind takes what is shown at its own place, or "from:to".
func bind(v string) (any, error) {
	from, to, elsewhere := strings.Cut(v, ":")
	if !elsewhere {
		to = from
	}
	const recursive = 0x4000 // MS_REC, what unit files mean when they say nothing
	return []struct {
		From, To string
		Optional bool
		Flags    uint64
	}{{from, to, false, recursive}}, nil
}
