import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where a guest keeps a marker. */
export const markerPlaces = ['root', 'ephemeral', 'swap', 'memory'] as const;
export type MarkerPlace = (typeof markerPlaces)[number];
export type Markers = Readonly<Record<MarkerPlace, string>>;

export type MarkerScriptOptions = {
  /** A text for each place, of letters, digits and `-`, at least 8 of them and none within another. */
  readonly markers: Markers;
};

/** What a guest says about its markers in the answer to `NL markers`; `absent`: it has no such disk. */
export type MarkerReport = {
  readonly bootId: string;
  readonly states: Readonly<Record<MarkerPlace, 'found' | 'lost' | 'absent'>>;
};

const body = readFileSync(join(import.meta.dirname, 'guest-script.sh'), 'utf8');

/** Markers that begin alike and end in the name of their place. */
export function markersFor(prefix: string): Markers {
  return {
    root: `${prefix}-root`,
    ephemeral: `${prefix}-ephemeral`,
    swap: `${prefix}-swap`,
    memory: `${prefix}-memory`,
  };
}

/**
 * User data for a cloud image or for ours: a script that runs at every boot, keeps a marker on each disk and one in
 * memory, and speaks lines that start with `NIGHTLATCH` on the serial console ttyS0.
 *
 * At boot: `boot ID`; for each place `PLACE found`, `written`, `absent` or `failed`; `listening ID`. From then on it
 * answers `NL echo WORD` with `echo WORD`; `NL markers` with what `readMarkerReport` reads; `NL memory` with
 * `memory kept ID` or `memory lost ID`; `NL size` with `size DISK BYTES` for each disk and `size done`; `NL poweroff`
 * and `NL crash` with the word, before they do it. After `NL crash` the guest boots again by itself.
 *
 * No marker is in the script as a whole, nor ever on the console: it is put together when the script runs, so that
 * what is found on a medium was written by the guest. *Throws* when a marker is not fit.
 */
export function markerScript(options: MarkerScriptOptions): string {
  const settings = markerPlaces.map((place) => `${place}_marker=${inTwo(place, options.markers[place])}`);
  const values = Object.values(options.markers);
  if (values.some((a, i) => values.some((b, j) => i !== j && b.includes(a))))
    throw new Error('one marker contains another');
  return ['#cloud-boothook', '#!/bin/sh', ...settings, body].join('\n');
}

/** Reads a `NIGHTLATCH markers …` line. Null: it is something else. */
export function readMarkerReport(line: string): MarkerReport | null {
  const state = '(found|lost|absent)';
  const states = markerPlaces.map((place) => `${place}=${state}`).join(' ');
  const match = new RegExp(`NIGHTLATCH markers boot=([0-9a-f-]{36}) ${states}`).exec(line);
  if (!match) return null;
  const [, bootId = '', ...found] = match;
  return {
    bootId,
    states: Object.fromEntries(markerPlaces.map((place, i) => [place, found[i]])) as MarkerReport['states'],
  };
}

/** A shell word that stands for the marker but does not contain it. */
function inTwo(place: MarkerPlace, marker: string): string {
  if (!/^[A-Za-z0-9-]{8,64}$/.test(marker))
    throw new Error(`the ${place} marker must be 8 to 64 letters, digits or "-"`);
  const middle = Math.floor(marker.length / 2);
  return `'${marker.slice(0, middle)}''${marker.slice(middle)}'`;
}
