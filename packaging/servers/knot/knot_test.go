package knot

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	d, err := Start(ctx, Options{Dir: t.TempDir(), Zones: []string{"example", "wild.example"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, d.Address)
	}}
	for _, want := range []string{"10.0.0.1", "10.0.0.2"} {
		if err := d.Set(ctx, "shop.example", "A", want); err != nil {
			t.Fatal(err)
		}
		if got, err := resolver.LookupHost(ctx, "shop.example."); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if err := d.Delete(ctx, "shop.example", "A"); err != nil {
		t.Fatal(err)
	}
	if got, err := resolver.LookupHost(ctx, "shop.example."); err == nil {
		t.Errorf("still there: %v", got)
	}
}
