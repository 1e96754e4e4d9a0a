// The secret of a mailed link comes behind the # of the address, where no server sees it, and is taken from there at once.
let secret = "";

export function takeSecret(): string {
	const found = decodeURIComponent(location.hash.slice(1));
	if (found !== "") {
		secret = found;
		history.replaceState(history.state, "", location.pathname + location.search);
	}
	return secret;
}
