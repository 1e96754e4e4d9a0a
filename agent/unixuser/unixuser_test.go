package unixuser

import (
	"errors"
	"strings"
	"testing"

	"chom.dev/proto/contract"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"
	group  = "root:x:0:\nwww-data:x:33:\n"
)

func TestProbe(t *testing.T) {
	name, err := contract.ParseUnixUser("s-abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	u := User{Name: name, UID: 20001}
	for _, c := range []struct {
		claim, passwd, group string
		want                 State
		taken                bool
	}{
		{"nothing is there", "", "", State{}, false},
		{"a group without nginx", "", "s-abcdefgh27:x:20001:\n", State{Group: true}, false},
		{"a group with nginx among others", "", "s-abcdefgh27:x:20001:a,www-data,b\n", State{Group: true, Web: true}, false},
		{"a member that only looks like nginx", "", "s-abcdefgh27:x:20001:xwww-data\n", State{Group: true}, false},
		{"all of it", "s-abcdefgh27:x:20001:20001::/:/x\n", "s-abcdefgh27:x:20001:www-data\n", State{true, true, true}, false},
		{"refuses the name with another id", "s-abcdefgh27:x:20002:20001::/:/x\n", "", State{}, true},
		{"refuses the name with another group", "s-abcdefgh27:x:20001:33::/:/x\n", "", State{}, true},
		{"refuses the id with another name", "s-other:x:20001:20001::/:/x\n", "", State{}, true},
		{"refuses the group's name with another id", "", "s-abcdefgh27:x:5:\n", State{}, true},
		{"refuses the group's id with another name", "", "s-other:x:20001:\n", State{}, true},
		{"skips lines that are no entries", "s-abcdefgh27:x:5\n+::::::\n\n#\n", "+:::\n", State{}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			got, err := probe(u, split([]byte(passwd+c.passwd), 7), split([]byte(group+c.group), 4))
			if got != c.want || errors.Is(err, ErrTaken) != c.taken {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("reads a group line of any length", func(t *testing.T) {
		long := "s-abcdefgh27:x:20001:" + strings.Repeat("member,", 1<<17) + "www-data\n"
		if got, err := probe(u, nil, split([]byte(group+long), 4)); err != nil || !got.Web {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestEnsure(t *testing.T) {
	name, _ := contract.ParseUnixUser("s-abcdefgh27")
	for _, id := range []int{-1, 0, 33, 1000, MinUID - 1, 61184, 65534, 65535} {
		if err := Ensure(t.Context(), nil, User{Name: name, UID: id}); err == nil {
			t.Errorf("id %d passed", id)
		}
	}
	if err := Ensure(t.Context(), nil, User{UID: MinUID}); err == nil {
		t.Error("no name passed")
	}
}
