package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/packaging/rig"
)

const (
	loginCrowd  = 64                     // sign in at once, each again as soon as it was answered
	loginPeople = 100                    // calls in a second of those who are in
	loginRound  = 10 * time.Second       // with the crowd, and as long without it
	loginWarmUp = 500 * time.Millisecond // for the crowd to be there
)

// login is what signing in costs: a hash, which must be dear for whoever guesses, and what a crowd of logins with wrong
// passwords takes from everybody else. All of the crowd may try as often as they like: what holds them here is the hasher alone,
// not the limits, which a crowd of many addresses passes by.
func login(ctx context.Context, b *bench) (_ []row, err error) {
	hashes, err := benchmark(ctx, "password", "^BenchmarkHash$")
	if err != nil {
		return nil, err
	}
	s, err := b.build(ctx, rig.Options{Args: []string{"--log-level=error"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	organization, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	token, err := s.ownersToken(ctx, organization)
	if err != nil {
		return nil, err
	}
	call := func(ctx context.Context) (time.Duration, error) {
		begin := time.Now()
		status, err := s.send(ctx, http.MethodGet, "/api/v1/organizations/"+organization, token, "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return time.Since(begin), err
	}
	calm, err := people(ctx, call)
	if err != nil {
		return nil, err
	}
	crowd, leave := context.WithCancel(ctx)
	answers := s.crowd(crowd)
	err = pause(ctx, loginWarmUp)
	var busy []time.Duration
	if err == nil {
		busy, err = people(ctx, call)
	}
	leave()
	if compared, away, failed := answers(); err == nil {
		err = failed
		b.detail("of the crowd, %d passwords were compared and %d turned away", compared, away)
	}
	if err != nil {
		return nil, err
	}
	return []row{
		{Name: "the hash of a password", Value: ms(median(hashes)), Unit: "ms", Statistic: "median", Runs: len(hashes), Bar: atMost(100)},
		{Name: "the hash of a password, the quickest", Value: ms(percentile(hashes, 0)), Unit: "ms", Statistic: "min", Runs: len(hashes), Bar: atLeast(50)},
		{
			Name: "a call while 64 sign in at once", Value: ms(percentile(busy, 99)), Unit: "ms", Statistic: "p99", Runs: len(busy), Bar: atMost(100),
			Comparison: &comparison{With: "while nobody does", Value: ms(percentile(calm, 99))},
		},
	}, nil
}

// people call at a steady rate, and none may fail.
func people(ctx context.Context, call func(context.Context) (time.Duration, error)) ([]time.Duration, error) {
	took, failed, err := offer(ctx, loginPeople, int(loginRound.Seconds()*loginPeople), call)
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("%d calls failed, the first: %w", len(failed), failed[0])
	}
	return took, err
}

// crowd signs in with wrong passwords until ctx ends. What it returns waits for that, and says how many passwords were
// compared and how many turned away.
func (s *stage) crowd(ctx context.Context) (answers func() (compared, away int64, err error)) {
	var compared, away atomic.Int64
	var g errgroup.Group
	for i := range loginCrowd {
		body := fmt.Sprintf(`{"email": "guest%d@bench.example", "password": "not this one, surely"}`, i)
		g.Go(func() error {
			for ctx.Err() == nil {
				status, err := s.send(ctx, http.MethodPost, "/api/v1/sessions", "", body)
				switch {
				case ctx.Err() != nil:
				case err != nil:
					return err
				case status == http.StatusUnauthorized:
					compared.Add(1)
				case status == http.StatusServiceUnavailable:
					away.Add(1)
				default:
					return fmt.Errorf("sign in: status %d", status)
				}
			}
			return nil
		})
	}
	return func() (int64, int64, error) {
		err := g.Wait()
		return compared.Load(), away.Load(), err
	}
}

// crowded keeps a connection for each of the crowd.
var crowded = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * loginCrowd}}

// send sends one request by REST and reads its answer.
func (s *stage) send(ctx context.Context, method, path, token, body string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := crowded.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, errors.Join(err, answer.Body.Close())
}
