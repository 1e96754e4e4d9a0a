import { Paper, Text } from "@mantine/core";
import { Fragment, type ReactNode } from "react";
import classes from "./List.module.css";

/** Things of which each can be acted on, one below the other: what would be columns is a line of words, and fits a phone. */
export function List({ label, children }: { label: string; children: ReactNode }) {
	return (
		<Paper component="ul" withBorder radius="md" className={classes.list} aria-label={label}>
			{children}
		</Paper>
	);
}

export function Item({ title, more, children, actions }: { title: ReactNode; more?: ReactNode; children?: ReactNode; actions?: ReactNode }) {
	return (
		<li className={classes.item}>
			<div className={classes.what}>
				<div className={classes.title}>
					<Text fw={600} span>
						{title}
					</Text>
					{more}
				</div>
				<Text size="sm" c="dimmed" component="div">
					{children}
				</Text>
			</div>
			{actions && <div className={classes.actions}>{actions}</div>}
		</li>
	);
}

/** What is said of one thing, with dots between. */
export function Words({ of }: { of: (ReactNode | false | undefined)[] }) {
	return of
		.filter((word) => word !== undefined && word !== false && word !== "")
		.map((word, place) => (
			<Fragment key={place}>
				{place > 0 && " · "}
				{word}
			</Fragment>
		));
}

/** A short mark beside a name. */
export function Mark({ children }: { children: ReactNode }) {
	return <span className={classes.mark}>{children}</span>;
}
