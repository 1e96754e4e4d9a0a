/** Puts text on the clipboard, and says whether that went well. */
export async function copy(text: string): Promise<boolean> {
	try {
		if (navigator.clipboard) {
			await navigator.clipboard.writeText(text);
			return true;
		}
	} catch {
		return false; // the reader, or the system, does not let us
	}
	return copySelected(text);
}

// The way of old, for pages that came by plain HTTP: the new one is closed to them.
function copySelected(text: string): boolean {
	const before = document.activeElement;
	const area = document.createElement("textarea");
	area.value = text;
	area.readOnly = true;
	(before?.parentElement ?? document.body).append(area); // within a dialog nothing outside of it takes the focus
	area.select();
	const done = document.execCommand("copy");
	area.remove();
	if (before instanceof HTMLElement) before.focus();
	return done;
}
