/** `npm run micro`: one benchmark for each hot function. Of one machine and one moment: compare within a run, not between runs. */
import { run } from 'mitata';
import { benchLogAppend } from './log-append.ts';
import { benchRegionMap } from './region-map.ts';
import { benchReplyHeader } from './reply-header.ts';
import { benchRequestHeader } from './request-header.ts';

benchRequestHeader();
benchReplyHeader();
benchRegionMap();
const closeLogs = await benchLogAppend();
await run();
await closeLogs();
