import { Button, Stack } from "@mantine/core";
import type { ReactNode } from "react";
import { Copy, Notice } from "./parts.js";

interface SecretProps {
	/** What happens to it when it is not kept. */
	title: string;
	warning: string;
	what: string;
	text: string;
	/** Says that it was kept. */
	kept: string;
	onKept: () => void;
	children?: ReactNode;
}

/** Shows a secret, this once, in a firm Dialog. */
export function Secret({ title, warning, what, text, kept, onKept, children }: SecretProps) {
	return (
		<Stack>
			<Notice tone="warn" title={title}>
				{warning}
			</Notice>
			<Copy text={text} what={what} block />
			{children}
			<Button onClick={onKept} data-autofocus>
				{kept}
			</Button>
		</Stack>
	);
}
