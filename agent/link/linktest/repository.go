package linktest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const repositories = contract.RepositoryPath

// RepositoryKey is the key that a site's host is given.
func RepositoryKey(site string) string {
	sum := sha256.Sum256([]byte(site))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (d *door) FetchRepositoryKey(ctx context.Context, req *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if _, _, err := d.enter(ctx, &req.Epoch); err != nil {
		return nil, err
	}
	return &linkv1.FetchRepositoryKeyResponse{Key: RepositoryKey(req.SiteId)}, nil
}

// repository lets in who would be let in to LinkService.
func (d *door) repository(w http.ResponseWriter, r *http.Request) {
	epoch, err := strconv.ParseUint(r.Header.Get(contract.EpochHeader), 10, 64)
	if err != nil {
		http.Error(w, "no epoch", http.StatusBadRequest)
		return
	}
	d.s.mu.Lock()
	server, _, err := d.enter(r.Context(), &epoch)
	d.s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	site := r.PathValue("site")
	if d.s.Repositories == nil {
		http.NotFound(w, r)
		return
	}
	http.StripPrefix(repositories+site, d.s.Repositories(server, site)).ServeHTTP(w, r)
}
