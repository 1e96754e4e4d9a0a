package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"

	"chom.dev/packaging/rig"
)

const (
	listSites       = 1000 // of one organization, of which a page of 50 is read
	listAgents      = 10   // simulated, that hold them
	listConnections = 64
	listWarmUp      = 3 * time.Second
	listRounds      = 3
	listRound       = 5 * time.Second
	listLimit       = 5 * time.Minute // for the sites to be there
)

func listSQLite(ctx context.Context, b *bench) ([]row, error) { return list(ctx, b, "") }

func listPostgres(ctx context.Context, b *bench) (_ []row, err error) {
	p, err := rig.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	return list(ctx, b, p.URL)
}

// list reads a page of an organization's sites by REST, as a person of it, from many connections at once; the client takes
// its part of the same cores. The floor does what a program without CHOM would do: it sends what one SELECT of pgx finds.
func list(ctx context.Context, b *bench, database string) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Database: database, Args: []string{"--log-level=warn"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	organization, err := s.thousandSites(ctx)
	if err != nil {
		return nil, err
	}
	token, err := s.ownersToken(ctx, organization)
	if err != nil {
		return nil, err
	}
	ours, err := s.reads(ctx, "CHOM", s.URL()+"/api/v1/sites?organization_id="+organization, token)
	if err != nil {
		return nil, err
	}
	floor, stop, err := startFloor(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	theirs, err := s.reads(ctx, "the SELECT", floor, "")
	if err != nil {
		return nil, err
	}
	return []row{
		{
			Name: "pages of 50 of 1,000 sites, 64 connections", Value: ours.perSecond, Unit: "pages/s", Statistic: "median", Runs: listRounds, Bar: atLeast(1500),
			Comparison: &comparison{With: "a SELECT by pgx, as JSON, without accounts", Value: theirs.perSecond},
		},
		{Name: "a page against that SELECT", Value: theirs.perSecond / ours.perSecond, Unit: "times", Statistic: "median", Runs: listRounds, Bar: atMost(3)},
		{
			Name: "a page", Value: ms(ours.p99), Unit: "ms", Statistic: "p99", Runs: ours.answers, Bar: atMost(80),
			Comparison: &comparison{With: "the same SELECT", Value: ms(theirs.p99)},
		},
	}, nil
}

// thousandSites makes them on simulated agents, each brought up, and gives their organization.
func (s *stage) thousandSites(ctx context.Context) (organization string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	sw := &swarmed{stage: s, dir: filepath.Join(s.dir, "swarm")}
	if err := os.Mkdir(sw.dir, 0o700); err != nil {
		return "", err
	}
	if err := sw.servers(ctx, listAgents); err != nil {
		return "", err
	}
	p, err := sw.start(ctx, "all", "--agents="+strconv.Itoa(listAgents), "--tokens="+sw.tokens(), "--ramp=1s")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := sw.prepared(ctx, p, listAgents); err != nil {
		return "", err
	}
	if organization, err = s.organization(ctx); err != nil {
		return "", err
	}
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range listSites {
		g.Go(func() error {
			_, err := s.Sites.CreateSite(creating, &sitev1.CreateSiteRequest{
				OrganizationId: organization, Name: fmt.Sprintf("site%d", i), Type: "static", ServerId: sw.ids[i%listAgents],
				Domains: []string{fmt.Sprintf("site%d.bench.example", i)}, Settings: map[string]string{"title": fmt.Sprintf("Site %d", i)},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", fmt.Errorf("create sites: %w", err)
	}
	return organization, sw.prepared(ctx, p, listAgents+listSites)
}

// ownersToken is one of a person, whose membership is looked up for each call.
func (s *stage) ownersToken(ctx context.Context, organization string) (string, error) {
	members, err := s.Organizations.ListMembers(ctx, &organizationv1.ListMembersRequest{OrganizationId: organization})
	if err != nil {
		return "", fmt.Errorf("list members: %w", err)
	}
	if len(members.GetMembers()) == 0 {
		return "", errors.New("the organization has no member")
	}
	made, err := s.Tokens.StartImpersonation(ctx, &tokenv1.StartImpersonationRequest{
		OrganizationId: organization, AccountId: members.GetMembers()[0].GetAccountId(), Reason: "the bench reads as a person would",
	})
	if err != nil {
		return "", fmt.Errorf("get a person's token: %w", err)
	}
	return made.GetSecret(), nil
}

// reading is how fast an address was read.
type reading struct {
	perSecond float64 // median of the rounds
	p99       time.Duration
	answers   int
}

func (s *stage) reads(ctx context.Context, who, address, token string) (reading, error) {
	if _, _, err := hammer(ctx, address, token, listConnections, listWarmUp); err != nil {
		return reading{}, err
	}
	var rates []time.Duration // a time for each answer, so that the median is that of durations
	var all []time.Duration
	for i := range listRounds {
		took, bytes, err := hammer(ctx, address, token, listConnections, listRound)
		if err != nil {
			return reading{}, err
		}
		rates = append(rates, listRound/time.Duration(len(took)))
		all = append(all, took...)
		s.b.detail("%s, round %d: %.0f pages/s of %d bytes, p50 %.1f ms, p99 %.1f ms", who, i+1,
			float64(len(took))/listRound.Seconds(), bytes/len(took), ms(median(took)), ms(percentile(took, 99)))
	}
	return reading{perSecond: float64(time.Second) / float64(median(rates)), p99: percentile(all, 99), answers: len(all)}, nil
}

// hammer asks for an address from many connections, each as soon as its last answer was read, and gives how long each
// answer took and how many bytes they had together. It fails on an answer that is not 200.
func hammer(ctx context.Context, address, token string, connections int, within time.Duration) (took []time.Duration, bytes int, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, 0, err
	}
	request := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\n"
	if token != "" {
		request += "Authorization: Bearer " + token + "\r\n"
	}
	request += "\r\n"
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	end := time.Now().Add(within)
	for range connections {
		g.Go(func() error {
			mine, read, err := repeat(ctx, u.Host, request, end)
			mu.Lock()
			defer mu.Unlock()
			took, bytes = append(took, mine...), bytes+read
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", u.Path, err)
	}
	if len(took) == 0 {
		return nil, 0, fmt.Errorf("%s: no answer in %s", u.Path, within)
	}
	return took, bytes, nil
}

func repeat(ctx context.Context, host, request string, end time.Time) (took []time.Duration, bytes int, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(end.Add(30 * time.Second)); err != nil {
		return nil, 0, err
	}
	answers := bufio.NewReaderSize(conn, 64<<10)
	for ctx.Err() == nil {
		begin := time.Now()
		if !begin.Before(end) {
			break
		}
		if _, err := io.WriteString(conn, request); err != nil {
			return nil, 0, err
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			return nil, 0, err
		}
		n, err := io.Copy(io.Discard, answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return nil, 0, err
		}
		if answer.StatusCode != http.StatusOK {
			return nil, 0, fmt.Errorf("status %d", answer.StatusCode)
		}
		took, bytes = append(took, time.Since(begin)), bytes+int(n)
	}
	return took, bytes, ctx.Err()
}

// startFloor serves, on loopback, the JSON that one SELECT of pgx makes of 50 of 1,000 rows of a site's columns, as PostgREST
// would.
func startFloor(ctx context.Context) (address string, stop func() error, err error) {
	p, err := rig.StartPostgres(ctx)
	if err != nil {
		return "", nil, err
	}
	pool, err := pgxpool.New(ctx, p.URL)
	if err != nil {
		return "", nil, errors.Join(err, p.Stop())
	}
	down := func() error { pool.Close(); return p.Stop() }
	if _, err := pool.Exec(ctx, floorTable); err != nil {
		return "", nil, errors.Join(err, down())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, errors.Join(err, down())
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var page []byte
		if err := pool.QueryRow(r.Context(), floorQuery, pgx.QueryExecModeCacheStatement, "organization 1").Scan(&page); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(page) // a reader who went away needs no answer
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	return "http://" + l.Addr().String() + "/sites", func() error { return errors.Join(server.Close(), down()) }, nil
}

const floorTable = `
	CREATE TABLE sites AS
	SELECT 'organization 1' AS organization_id,
	       gen_random_uuid()::text AS id,
	       gen_random_uuid()::text AS server_id,
	       'site' || n AS name,
	       'static' AS type,
	       ARRAY['site' || n || '.bench.example'] AS domains,
	       jsonb_build_object('title', 'Site ' || n) AS settings,
	       jsonb_build_object('cpu_percent', 100, 'memory_bytes', 536870912, 'tasks', 100, 'php_workers', 0) AS limits,
	       'STATE_ACTIVE' AS state,
	       1 AS generation,
	       jsonb_build_object('generation', 1, 'phase', 'PHASE_ACTIVE', 'http_status', 200, 'probe_time', now(), 'disk_bytes', 123456) AS observed,
	       now() AS create_time,
	       now() AS update_time,
	       gen_random_uuid()::text AS last_task_id
	FROM generate_series(1, 1000) n;
	CREATE INDEX ON sites (organization_id, id);
	ANALYZE sites`

const floorQuery = `
	SELECT json_agg(page)
	FROM (
		SELECT *
		FROM sites
		WHERE organization_id = $1
		ORDER BY id
		LIMIT 50) page`
