// Package unixuser makes and removes the unix user and group of a site, and
// lets nginx into the group. It works on the host's own files (/etc/passwd,
// /etc/group) only; users of a directory service are none of its business.
//
// User ids are chosen by the caller, who never uses one twice: a file that was
// left behind must not find a new owner.
package unixuser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// WebUser is the account of nginx's workers. It is a member of every site's
// group: the group is the only way to a site's files and socket.
const WebUser = "www-data"

// MinUID is the first id that a site may have: above what distributions give
// to services and people, below nobody (65534) and systemd's dynamic users
// (61184 to 65519) or far above both.
const MinUID = 20000

// ErrTaken says that the name or the id belongs to someone else on this host.
var ErrTaken = errors.New("user name or id is taken")

// User is a site's user; its group has the same name and id.
type User struct {
	Name contract.UnixUser
	UID  int
}

// host runs a program outside of the agent's sandbox.
type host interface {
	Run(ctx context.Context, u run.Unit) (run.Result, error)
}

// one serializes our own tools: they lock the files and give up at once when
// another holds the lock.
var one sync.Mutex

// Ensure makes the group (with nginx as its member) and the user exist. What
// is already right is left alone; a name or id that is someone else's gives
// ErrTaken and changes nothing.
func Ensure(ctx context.Context, h host, u User) error {
	one.Lock()
	defer one.Unlock()
	if u.Name.IsZero() || u.UID < MinUID || u.UID >= 61184 && u.UID <= 65535 {
		return fmt.Errorf("ensure user %s: id %d is not for sites", u.Name, u.UID)
	}
	err := unlessLocked(ctx, func() error {
		state, err := Probe(u)
		if err != nil || state.Complete() {
			return err
		}
		return use(ctx, h, u.Name, u.missing(state)...)
	})
	if err != nil {
		return fmt.Errorf("ensure user %s: %w", u.Name, err)
	}
	fail.Point("unixuser.user-added")
	state, err := Probe(u)
	if err != nil {
		return err
	}
	if !state.Complete() {
		return fmt.Errorf("ensure user %s: tools reported success, host says %+v", u.Name, state)
	}
	return nil
}

// missing are the programs that make what is not there, in their order.
func (u User) missing(s State) [][]string {
	name, id := u.Name.String(), strconv.Itoa(u.UID)
	var tools [][]string
	if !s.Group {
		tools = append(tools, []string{"/usr/sbin/groupadd", "--gid", id, "--users", WebUser, "--", name})
	} else if !s.Web {
		tools = append(tools, []string{"/usr/sbin/usermod", "--append", "--groups", name, "--", WebUser})
	}
	if !s.User {
		// A system user: no aging, no subordinate ids, no mail spool. Its
		// password is locked and its shell refuses.
		tools = append(tools, []string{"/usr/sbin/useradd", "--system", "--no-log-init", "--no-create-home",
			"--uid", id, "--gid", id, "--home-dir", run.SitesDir + "/" + u.Name.Handle().String(),
			"--shell", "/usr/sbin/nologin", "--comment", "CHOM site", "--", name})
	}
	return tools
}

// Remove makes the user and its group not exist. The user must have no
// processes left; userdel refuses otherwise. Files are none of its business.
func Remove(ctx context.Context, h host, name contract.UnixUser) error {
	one.Lock()
	defer one.Unlock()
	err := unlessLocked(ctx, func() error {
		users, err := read("/etc/passwd", 7)
		if err != nil || !users.has(name.String()) {
			return err
		}
		return use(ctx, h, name, []string{"/usr/sbin/userdel", "--", name.String()})
	})
	if err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	fail.Point("unixuser.user-removed")
	err = unlessLocked(ctx, func() error {
		groups, err := read("/etc/group", 4)
		if err != nil || !groups.has(name.String()) { // userdel takes it along only when it has no members
			return err
		}
		return use(ctx, h, name, []string{"/usr/sbin/groupdel", "--", name.String()})
	})
	if err != nil {
		return fmt.Errorf("remove group %s: %w", name, err)
	}
	return nil
}

// State is what of a user is there already.
type State struct {
	User  bool // with the right id and group
	Group bool // with the right id
	Web   bool // nginx is a member of the group
}

// Complete reports whether nothing is left to do.
func (s State) Complete() bool { return s.User && s.Group && s.Web }

// Probe looks at the host's files, every time anew. It gives ErrTaken when the
// name stands for another id or the id for another name.
func Probe(u User) (State, error) {
	users, err := read("/etc/passwd", 7)
	if err != nil {
		return State{}, err
	}
	groups, err := read("/etc/group", 4)
	if err != nil {
		return State{}, err
	}
	return probe(u, users, groups)
}

func probe(u User, users, groups table) (State, error) {
	name, id := u.Name.String(), strconv.Itoa(u.UID)
	var s State
	for _, g := range groups {
		if (g[0] == name) != (g[2] == id) {
			return State{}, fmt.Errorf("%w: group %s has id %s, wanted %s with %s", ErrTaken, g[0], g[2], name, id)
		}
		if g[0] == name {
			s.Group = true
			s.Web = slices.Contains(strings.Split(g[3], ","), WebUser)
		}
	}
	for _, p := range users {
		if (p[0] == name) != (p[2] == id) || p[0] == name && p[3] != id {
			return State{}, fmt.Errorf("%w: user %s has ids %s:%s, wanted %s with %s", ErrTaken, p[0], p[2], p[3], name, id)
		}
		s.User = s.User || p[0] == name
	}
	return s, nil
}

// UIDs gives every user and group id of the host that is in the range of
// sites, so that a caller who lost count can start above them.
func UIDs() ([]int, error) {
	var out []int
	for file, fields := range map[string]int{"/etc/passwd": 7, "/etc/group": 4} {
		t, err := read(file, fields)
		if err != nil {
			return nil, err
		}
		for _, e := range t {
			if id, err := strconv.Atoi(e[2]); err == nil && id >= MinUID && id != 65534 && id != 65535 {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// table is /etc/passwd or /etc/group, split into fields.
type table [][]string

func (t table) has(name string) bool {
	return slices.ContainsFunc(t, func(e []string) bool { return e[0] == name })
}

func read(file string, fields int) (table, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return split(b, fields), nil
}

// split skips lines that are not entries, as the C library does.
func split(b []byte, fields int) table {
	var t table
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, len(b)+1) // a group's members make one long line
	for sc.Scan() {
		if f := strings.Split(sc.Text(), ":"); len(f) == fields {
			t = append(t, f)
		}
	}
	return t
}

const (
	lockTries = 20
	lockWait  = 250 * time.Millisecond // an administrator's own useradd takes no longer
)

// unlessLocked tries again while someone else holds the lock that do needs.
func unlessLocked(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		var exit *run.ExitError
		if err == nil || !errors.As(err, &exit) || !strings.Contains(exit.Stderr, "cannot lock") || try == lockTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockWait):
		}
	}
}

// use runs some of the distribution's programs, each once the one before has
// ended well, outside of our sandbox, since they write to /etc.
func use(ctx context.Context, h host, user contract.UnixUser, tools ...[]string) error {
	_, err := h.Run(ctx, run.Unit{Name: "user-" + user.String(), Argv: tools[0], Then: tools[1:]})
	return err
}
