package dnstest

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chom.dev/servers/child"
	_ "modernc.org/sqlite" // PowerDNS keeps its zones in a file of SQLite, whose tables must be there before it starts
)

// PowerDNS is a real PowerDNS with some zones.
type PowerDNS struct {
	Address string // of its name server, HOST:PORT, UDP and TCP
	URL     string // of its API
	Key     string
}

// StartPowerDNS serves zones that have nothing but their SOA and NS.
func StartPowerDNS(t testing.TB, zones ...string) PowerDNS {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "zones.sqlite3")
	schema, err := os.ReadFile("/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql")
	if err != nil {
		t.Fatal(err)
	}
	d, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ExecContext(t.Context(), string(schema)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	p := PowerDNS{Address: freeAddress(t), Key: "canary-of-powerdns"}
	api := freeAddress(t)
	p.URL = "http://" + api
	host, port, _ := net.SplitHostPort(p.Address)
	_, apiPort, _ := net.SplitHostPort(api)
	config := fmt.Sprintf(`
launch=gsqlite3
gsqlite3-database=%s
local-address=%s
local-port=%s
webserver=yes
webserver-address=127.0.0.1
webserver-port=%s
webserver-allow-from=127.0.0.1
api=yes
api-key=%s
socket-dir=%s
zone-cache-refresh-interval=0
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
loglevel=3
`, file, host, port, apiPort, p.Key, dir)
	if err := os.WriteFile(filepath.Join(dir, "pdns.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("/usr/sbin/pdns_server", "--config-dir="+dir, "--guardian=no", "--daemon=no", "--disable-syslog", "--write-pid=no")
	server.Stderr = t.Output()
	ended, err := child.Start(server, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill() // it keeps nothing
		<-ended
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if connection, err := net.Dial("tcp", api); err == nil {
			connection.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("PowerDNS does not answer")
		}
	}
	for _, zone := range zones {
		p.call(t, http.MethodPost, "/zones", map[string]any{"name": zone + ".", "kind": "Native", "nameservers": []string{"ns." + zone + "."}})
	}
	return p
}

// Ask gives the values that the server has for a name and a type, as a zone file has them.
func (p PowerDNS) Ask(t testing.TB, name string, kind uint16) []string {
	return ask(t, p.Address, name, kind)
}

// Set makes values all that there is of a name and a type: what somebody else does to the zone.
func (p PowerDNS) Set(t testing.TB, zone, name, kind string, values ...string) {
	t.Helper()
	records := []map[string]any{} // PowerDNS takes null for no change
	for _, value := range values {
		records = append(records, map[string]any{"content": value, "disabled": false})
	}
	p.call(t, http.MethodPatch, "/zones/"+zone+".", map[string]any{"rrsets": []any{
		map[string]any{"name": name + ".", "type": kind, "ttl": 60, "changetype": "REPLACE", "records": records},
	}})
}

func (p PowerDNS) call(t testing.TB, method, path string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, p.URL+"/api/v1/servers/localhost"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-API-Key", p.Key)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if said, err := io.ReadAll(answer.Body); answer.StatusCode/100 != 2 || err != nil {
		t.Fatalf("PowerDNS answers %s: %s, %v", answer.Status, said, err)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
