import { Table, VisuallyHidden } from "@mantine/core";
import type { ReactNode } from "react";
import classes from "./Sheet.module.css";

export interface Column<T> {
	title: string;
	cell: (row: T) => ReactNode;
	/** Its title is for readers who hear it alone. */
	untitled?: boolean;
	/** Not so much needed that it takes a phone's room. */
	wide?: boolean;
}

/** A table. Where there is no room for it, each row is a card with its cells below each other, each with its column's title. */
export function Sheet<T>({ of, keyOf, columns, label }: { of: readonly T[]; keyOf: (row: T) => string; columns: readonly Column<T>[]; label: string }) {
	return (
		// Roles are said because what is no table to the eye would be none to readers.
		// biome-ignore-start lint/a11y/noRedundantRoles: as above
		<Table highlightOnHover verticalSpacing="xs" withTableBorder bg="var(--chom-raised)" className={classes.sheet} aria-label={label} role="table">
			<Table.Thead role="rowgroup">
				<Table.Tr role="row">
					{columns.map(({ title, untitled }) => (
						<Table.Th key={title} role="columnheader">
							{untitled ? <VisuallyHidden>{title}</VisuallyHidden> : title}
						</Table.Th>
					))}
				</Table.Tr>
			</Table.Thead>
			<Table.Tbody role="rowgroup">
				{of.map((row) => (
					<Table.Tr key={keyOf(row)} role="row">
						{columns.map(({ title, cell, untitled, wide }) => (
							<Table.Td key={title} role="cell" data-title={untitled ? undefined : title} data-wide={wide || undefined}>
								{cell(row)}
							</Table.Td>
						))}
					</Table.Tr>
				))}
			</Table.Tbody>
		</Table>
		// biome-ignore-end lint/a11y/noRedundantRoles: as above
	);
}
