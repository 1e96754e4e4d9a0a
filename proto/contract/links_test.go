package contract

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestLinks(t *testing.T) {
	of := func(pairs ...string) *Links {
		l := new(Links)
		for _, p := range pairs {
			path, target, _ := strings.Cut(p, " ")
			l.Add(path, target)
		}
		return l
	}
	one := of("public/a x", "public/b y")
	if !bytes.Equal(one.SHA256(), of("public/b y", "public/a x").SHA256()) {
		t.Error("the order in which they come is of account")
	}
	for what, other := range map[string]*Links{
		"another target": of("public/a x", "public/b z"), "another path": of("public/a x", "public/c y"), "one less": of("public/a x"),
		"two exchanged": of("public/a y", "public/b x"), "a name with a part of its target": of("public/a\x00x x", "public/b y"),
	} {
		if bytes.Equal(one.SHA256(), other.SHA256()) {
			t.Errorf("%s has the same hash", what)
		}
	}
	backedUp, restored := of("public/a x", "public/bad \xff", "private/bad t\xfex"), of("public/a x", "public/bad \uFFFD", "private/bad t\uFFFDx")
	if !bytes.Equal(backedUp.SHA256(), restored.SHA256()) || !bytes.Equal(backedUp.SHA256(), of("public/a x").SHA256()) {
		t.Error("a target that is not UTF-8 is part of the hash")
	}
	if got := backedUp.Unkept(); !slices.Equal(got, []string{"private/bad", "public/bad"}) || len(restored.Unkept()) > 0 {
		t.Errorf("unkept are %q and %q", got, restored.Unkept())
	}
}
