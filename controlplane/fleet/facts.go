package fleet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
)

// Facts are what an agent says of its host, cut to the sizes of chom.fleet.v1.Facts. They are shown, and they keep a server that
// says it is not fit from getting sites; nothing else follows from them.
type Facts struct {
	Hostname      string
	OS            string
	Arch          string
	Kernel        string
	AgentVersion  string
	CPUs          uint32
	MemoryBytes   uint64
	DiskBytes     uint64
	DiskFreeBytes uint64
	Addresses     []string
	PHPVersion    string
	NginxVersion  string
	MariaDB       string // its release
	Prepared      bool
	MachineHint   string
	Findings      []string // what is wrong with the host, in words
}

const (
	maxAddresses = 64
	maxFindings  = 32
)

// FactsFrom reads what an agent sent; nil is a host that said nothing. Hostile text is made printable, what is too long is cut.
func FactsFrom(m *fleetv1.Facts) Facts {
	return Facts{
		Hostname:      printable(m.GetHostname(), 253),
		OS:            printable(m.GetOs(), 128),
		Arch:          printable(m.GetArch(), 32),
		Kernel:        printable(m.GetKernel(), 128),
		AgentVersion:  printable(m.GetAgentVersion(), 64),
		CPUs:          m.GetCpuCount(),
		MemoryBytes:   m.GetMemoryBytes(),
		DiskBytes:     m.GetDiskBytes(),
		DiskFreeBytes: m.GetDiskFreeBytes(),
		Addresses:     printableList(m.GetAddresses(), maxAddresses, 64),
		PHPVersion:    printable(m.GetPhpVersion(), 32),
		NginxVersion:  printable(m.GetNginxVersion(), 32),
		MariaDB:       printable(m.GetMariadbVersion(), 64),
		Prepared:      m.GetPrepared(),
		MachineHint:   printable(m.GetMachineHint(), 64),
		Findings:      printableList(m.GetFindings(), maxFindings, 512),
	}
}

// Message is what people are shown.
func (f Facts) Message() *fleetv1.Facts {
	return &fleetv1.Facts{
		Hostname:       f.Hostname,
		Os:             f.OS,
		Arch:           f.Arch,
		Kernel:         f.Kernel,
		AgentVersion:   f.AgentVersion,
		CpuCount:       f.CPUs,
		MemoryBytes:    f.MemoryBytes,
		DiskBytes:      f.DiskBytes,
		DiskFreeBytes:  f.DiskFreeBytes,
		Addresses:      f.Addresses,
		PhpVersion:     f.PHPVersion,
		NginxVersion:   f.NginxVersion,
		MariadbVersion: f.MariaDB,
		Prepared:       f.Prepared,
		MachineHint:    f.MachineHint,
		Findings:       f.Findings,
	}
}

// printable keeps at most limit runes, and of these what a terminal and a page show as it is.
func printable(s string, limit int) string {
	kept := make([]rune, 0, min(len(s), limit))
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if len(kept) == limit {
			break
		}
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		kept = append(kept, r)
	}
	return string(kept)
}

func printableList(all []string, items, limit int) []string {
	kept := make([]string, 0, min(len(all), items))
	for _, s := range all[:min(len(all), items)] {
		kept = append(kept, printable(s, limit))
	}
	return kept
}

func (f Facts) marshal() ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f.Message())
	if err != nil {
		return nil, fmt.Errorf("store facts: %w", err)
	}
	return b, nil
}

// parseFacts reads what marshal wrote.
func parseFacts(b []byte) (Facts, error) {
	var m fleetv1.Facts
	if err := proto.Unmarshal(b, &m); err != nil {
		return Facts{}, fmt.Errorf("read facts: %w", err)
	}
	return FactsFrom(&m), nil
}

// SaveFacts replaces a server's facts, unless they are the same.
func SaveFacts(ctx context.Context, tx *db.Tx, server contract.ServerID, f Facts) error {
	b, err := f.marshal()
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE servers
		SET facts = $2,
		    prepared = $3
		WHERE id = $1
		  AND state IN ('active', 'draining')
		  AND (facts IS NULL OR facts <> $2 OR prepared <> $3)`,
		server, b, f.Prepared); err != nil {
		return fmt.Errorf("save facts of server %s: %w", server, err)
	}
	return nil
}

// Address is the address under which a server is reached from outside, as far as its agent knows: an IPv4 one rather than IPv6,
// a public one rather than a private. The zero Addr when it named none.
func Address(ctx context.Context, q db.Querier, id contract.ServerID) (netip.Addr, error) {
	all, err := Addresses(ctx, q, id)
	if err != nil || len(all) == 0 {
		return netip.Addr{}, err
	}
	return all[0], nil
}

// Addresses are all that a server's agent named, but for those that lead nowhere from outside; the one of Address is the first.
func Addresses(ctx context.Context, q db.Querier, id contract.ServerID) ([]netip.Addr, error) {
	s, err := get(ctx, q, id)
	if err != nil || s.Facts == nil {
		return nil, err
	}
	var all []netip.Addr
	for _, text := range s.Facts.Addresses {
		text, _, _ = strings.Cut(text, "/")
		address, err := netip.ParseAddr(text)
		if err == nil && address.IsGlobalUnicast() {
			all = append(all, address)
		}
	}
	slices.SortStableFunc(all, func(a, b netip.Addr) int { return fitness(b) - fitness(a) })
	return all, nil
}

func fitness(a netip.Addr) int {
	n := 0
	if a.IsValid() {
		n = 1
	}
	if a.Is4() {
		n++
	}
	if a.IsValid() && !a.IsPrivate() {
		n += 2
	}
	return n
}
