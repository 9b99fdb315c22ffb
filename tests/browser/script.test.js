// What web/pixelgate.js promises, in a real browser against a server of the test's own: node --test script.test.js

import { run } from './lib/harness.js';
import './script/tap.js';
import './script/consent.js';
import './script/alone.js';
import './script/event.js';
import './script/cookies.js';
import './script/sending.js';
import './script/manners.js';

run('pixelgate.js');
