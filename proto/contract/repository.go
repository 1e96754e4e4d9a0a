package contract

// Sites' repositories lie beside LinkService on the agents' door and speak
// restic's REST protocol, version 2.
const (
	// RepositoryPath is followed by a site's id and the path in its repository.
	RepositoryPath = "/backup/v1/"
	// EpochHeader carries the epoch, which is a field of other calls.
	EpochHeader = "Chom-Epoch"
)
